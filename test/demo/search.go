package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// needle is one spelling of something that must not be found.
type needle struct {
	what  string
	bytes []byte
}

// needles gives the spellings in which a careless program leaks a secret: raw,
// hexadecimal, and base64 in the standard and URL alphabets.
func needles(what string, secret []byte) []needle {
	return []needle{
		{what + " (raw)", secret},
		{what + " (hex)", []byte(hex.EncodeToString(secret))},
		{what + " (base64)", []byte(strings.TrimRight(base64.StdEncoding.EncodeToString(secret), "="))},
		{what + " (base64url)", []byte(base64.RawURLEncoding.EncodeToString(secret))},
	}
}

// search reads every regular file below the places and reports where a needle
// is found, and how much it has read.
func search(places []string, ns []needle) (found []string, files int, size int64, err error) {
	for _, place := range places {
		err := filepath.WalkDir(place, func(p string, e fs.DirEntry, err error) error {
			if err != nil {
				if os.IsNotExist(err) {
					return nil // a temporary file went away
				}
				return err
			}
			if !e.Type().IsRegular() {
				return nil
			}
			hits, n, err := searchFile(p, ns)
			if err != nil {
				if os.IsNotExist(err) {
					return nil
				}
				return err
			}
			files++
			size += n
			found = append(found, hits...)
			return nil
		})
		if err != nil {
			return nil, 0, 0, fmt.Errorf("searching: %w", err)
		}
	}
	return found, files, size, nil
}

func searchFile(p string, ns []needle) (hits []string, size int64, err error) {
	f, err := os.Open(p)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	overlap := 0
	for _, n := range ns {
		overlap = max(overlap, len(n.bytes))
	}
	buf := make([]byte, 0, 1<<20+overlap)
	seen := map[string]bool{}
	for {
		n, err := f.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		size += int64(n)
		for _, nd := range ns {
			if !seen[nd.what] && bytes.Contains(buf, nd.bytes) {
				seen[nd.what] = true
				hits = append(hits, fmt.Sprintf("%s in %s", nd.what, p))
			}
		}
		if err == io.EOF {
			return hits, size, nil
		}
		if err != nil {
			return nil, 0, err
		}
		keep := min(overlap, len(buf))
		copy(buf[:keep], buf[len(buf)-keep:])
		buf = buf[:keep]
	}
}
