package snapshot

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// emptyRoot is the root of containers of images that name no user.
const emptyRoot = "empty"

// strangeID stands for every user and group but root: the guest resolves names in
// the image that it has verified, and the shim passes on no number for them. It is
// one that no image has, so that a pod's number is never mistaken for a name's.
const strangeID = 1<<31 - 2

// account is a name that an image or its pod may want to have resolved.
var account = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}\$?$`)

// roots are the folders that containers get on the node: nothing, or /etc/passwd and
// /etc/group with the names that containerd wants to find there. They are named by
// their content and never change.
type roots struct{ dir string }

// names splits the USER of an image's configuration, "user[:group]", into what has
// to be looked up.
func splitUser(user string) (u, g string) {
	u, g, _ = strings.Cut(user, ":")
	return lookedUp(u), lookedUp(g)
}

func lookedUp(name string) string {
	if _, err := strconv.Atoi(name); err == nil || !account.MatchString(name) {
		return ""
	}
	return name
}

// make makes the root for these USERs and gives its name.
func (r roots) make(users []string) (string, error) {
	var us, gs []string
	for _, spec := range users {
		u, g := splitUser(spec)
		if u != "" {
			us = append(us, u)
		}
		if g != "" {
			gs = append(gs, g)
		}
	}
	passwd, group := lines(us, "%s:x:%d:%[2]d::/:\n"), lines(gs, "%s:x:%d:\n")
	name := emptyRoot
	if passwd != "" || group != "" {
		sum := sha256.Sum256([]byte(passwd + "\x00" + group))
		name = hex.EncodeToString(sum[:])
	}
	dest := filepath.Join(r.dir, name)
	if _, err := os.Lstat(dest); err == nil {
		return name, nil
	}
	if err := r.write(dest, passwd, group); err != nil {
		return "", fmt.Errorf("making a container's root: %w", err)
	}
	return name, nil
}

func lines(names []string, format string) string {
	slices.Sort(names)
	var b strings.Builder
	for _, n := range slices.Compact(names) {
		id := strangeID
		if n == "root" {
			id = 0
		}
		fmt.Fprintf(&b, format, n, id)
	}
	return b.String()
}

// write makes the folder under another name first: it is there as a whole or not.
func (r roots) write(dest, passwd, group string) error {
	tmp, err := os.MkdirTemp(r.dir, ".new-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }() // gone already when all went well
	if passwd != "" || group != "" {
		if err := os.Mkdir(filepath.Join(tmp, "etc"), 0o755); err != nil {
			return err
		}
		for name, text := range map[string]string{"passwd": passwd, "group": group} {
			if err := writeSynced(filepath.Join(tmp, "etc", name), text); err != nil {
				return err
			}
		}
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	if err := os.Rename(tmp, dest); err != nil && !errors.Is(err, os.ErrExist) { // another request was first
		return err
	}
	return nil
}

func writeSynced(path, text string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Sync(), f.Close())
}

// path is where a root lies. One that is gone, as after a restored backup, is made
// again as the empty one rather than left to fail in a mount.
func (r roots) path(name string) (string, error) {
	dir := filepath.Join(r.dir, name)
	if name != emptyRoot {
		if _, err := os.Lstat(dir); err == nil {
			return dir, nil
		}
	}
	name, err := r.make(nil)
	return filepath.Join(r.dir, name), err
}

// sweep removes the roots that no snapshot has.
func (r roots) sweep(used map[string]bool) error {
	all, err := os.ReadDir(r.dir)
	if err != nil {
		return fmt.Errorf("reading the roots: %w", err)
	}
	for _, e := range all {
		if e.Name() == emptyRoot || used[e.Name()] {
			continue
		}
		if err := os.RemoveAll(filepath.Join(r.dir, e.Name())); err != nil {
			return fmt.Errorf("removing an unused root: %w", err)
		}
	}
	return nil
}
