package migrate

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/cofferproject/coffer/api/kbs"
)

// Limits of a source.
const (
	maxItems = 100_000
	maxFile  = kbs.MaxResource
	maxJSON  = 256 << 20 // bytes of one LocalJson store
	maxTotal = 1 << 30   // bytes of one store, which is held in memory
)

// Folder is a source in files. A store is a folder with one file
// for each key (LocalFs, where "/" in a key is written \x2F) or one JSON object of
// keys and base64 (LocalJson, with or without .json behind its name).
func Folder(dir string) Source {
	return func(context.Context) ([]Item, error) { return readFiles(dir) }
}

func readFiles(dir string) ([]Item, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	var out []Item
	seen := map[string]bool{}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "..") && !e.Type().IsRegular() {
			continue // Kubernetes' own links beside mounted files
		}
		name := strings.TrimSuffix(e.Name(), ".json")
		if seen[name] {
			return nil, fmt.Errorf("%s: %s is there as a file and as a folder, or with and without .json", dir, name)
		}
		seen[name] = true
		st, err := root.Stat(e.Name())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", dir, err)
		}
		var items []Item
		switch {
		case st.IsDir():
			items, err = readFolder(root, e.Name())
		case st.Mode().IsRegular():
			items, err = readJSON(root, e.Name(), name)
		default:
			err = fmt.Errorf("%s is neither a file nor a folder", e.Name())
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", dir, err)
		}
		if out = append(out, items...); len(out) > maxItems {
			return nil, fmt.Errorf("%s: more than %d entries", dir, maxItems)
		}
	}
	return out, nil
}

// readFolder reads a LocalFs store.
func readFolder(root *os.Root, store string) ([]Item, error) {
	entries, err := fs.ReadDir(root.FS(), store)
	if err != nil {
		return nil, err
	}
	if len(entries) > maxItems {
		return nil, fmt.Errorf("%s: more than %d entries", store, maxItems)
	}
	var out []Item
	total := 0
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "..") && !e.Type().IsRegular() {
			continue
		}
		it := Item{Store: store, Key: strings.ReplaceAll(e.Name(), `\x2F`, "/")}
		if it.data, err = readFile(root, path.Join(store, e.Name()), maxFile); err != nil {
			it.refuse(err.Error())
		}
		if total += len(it.data); total > maxTotal {
			return nil, fmt.Errorf("%s: more than %d bytes", store, maxTotal)
		}
		out = append(out, it)
	}
	return out, nil
}

func readFile(root *os.Root, name string, limit int64) ([]byte, error) {
	st, err := root.Stat(name)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, errors.New("not a file")
	}
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("more than %d bytes", limit)
	}
	return b, nil
}

// readJSON reads a LocalJson store.
func readJSON(root *os.Root, file, store string) ([]Item, error) {
	b, err := readFile(root, file, maxJSON)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	defer clear(b)
	out, err := parseJSON(b, store)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return out, nil
}

// parseJSON takes one object of keys and padded base64url. Of two members of one
// name nobody could say which one counted.
func parseJSON(b []byte, store string) ([]Item, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("not a JSON object")
	}
	var out []Item
	seen := map[string]bool{}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, err
		}
		key, ok := t.(string)
		if !ok || seen[key] {
			return nil, fmt.Errorf("two members of the name %.80q", key)
		}
		seen[key] = true
		var text string
		if err := d.Decode(&text); err != nil {
			return nil, fmt.Errorf("%.80q: not a string", key)
		}
		it := Item{Store: store, Key: key}
		if it.data, err = base64.URLEncoding.Strict().DecodeString(text); err != nil {
			it.refuse("not base64url")
		}
		if out = append(out, it); len(out) > maxItems {
			return nil, fmt.Errorf("more than %d entries", maxItems)
		}
	}
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("data after the object")
	}
	return out, nil
}

// decodeJSON reads one value with its numbers as they are.
func decodeJSON(raw []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, fmt.Errorf("value: %w", err)
	}
	return v, nil
}
