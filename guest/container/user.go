package container

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
)

// maxAccountFile bounds /etc/passwd and /etc/group of an image.
const maxAccountFile = 1 << 20

// maxGroups is the kernel's NGROUPS_MAX, and more than any image needs.
const maxGroups = 1024

// identity is a resolved User.
type identity struct {
	UID    uint32   `json:"uid"`
	GID    uint32   `json:"gid"`
	Groups []uint32 `json:"groups"`
	Home   string   `json:"home"`
}

// passwdEntry is one line of /etc/passwd.
type passwdEntry struct {
	Name     string
	UID, GID uint32
	Home     string
}

// groupEntry is one line of /etc/group.
type groupEntry struct {
	Name    string
	GID     uint32
	Members []string
}

// parsePasswd reads the well-formed lines of an /etc/passwd; others are skipped,
// as the C library does.
func parsePasswd(b []byte) []passwdEntry {
	var out []passwdEntry
	eachLine(b, func(f []string) {
		if len(f) < 6 || f[0] == "" {
			return
		}
		uid, ok1 := parseID(f[2])
		gid, ok2 := parseID(f[3])
		if ok1 && ok2 {
			out = append(out, passwdEntry{Name: f[0], UID: uid, GID: gid, Home: f[5]})
		}
	})
	return out
}

// parseGroup reads the well-formed lines of an /etc/group.
func parseGroup(b []byte) []groupEntry {
	var out []groupEntry
	eachLine(b, func(f []string) {
		if len(f) < 3 || f[0] == "" {
			return
		}
		gid, ok := parseID(f[2])
		if !ok {
			return
		}
		g := groupEntry{Name: f[0], GID: gid}
		if len(f) > 3 {
			for m := range strings.SplitSeq(f[3], ",") {
				if m != "" {
					g.Members = append(g.Members, m)
				}
			}
		}
		out = append(out, g)
	})
	return out
}

func eachLine(b []byte, f func([]string)) {
	s := bufio.NewScanner(bytes.NewReader(b))
	s.Buffer(nil, maxAccountFile+1)
	for s.Scan() {
		line := strings.TrimSpace(s.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		f(strings.Split(line, ":"))
	}
}

// parseID reads a decimal uid or gid below 2^31 (the last, 2^32-1, means "no id").
func parseID(s string) (uint32, bool) {
	if s == "" || s[0] < '0' || s[0] > '9' {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 10, 31)
	return uint32(n), err == nil
}

// readAccounts reads passwd and group below root; a missing file is empty.
func readAccounts(root *os.Root) ([]passwdEntry, []groupEntry, error) {
	p, err := readBounded(root, "etc/passwd")
	if err != nil {
		return nil, nil, err
	}
	g, err := readBounded(root, "etc/group")
	if err != nil {
		return nil, nil, err
	}
	return parsePasswd(p), parseGroup(g), nil
}

func readBounded(root *os.Root, name string) ([]byte, error) {
	fi, err := root.Stat(name)
	if err != nil {
		// A dangling or escaping link counts as absent: then only numbers resolve.
		if li, lerr := root.Lstat(name); errors.Is(err, fs.ErrNotExist) || (lerr == nil && li.Mode()&fs.ModeSymlink != 0) {
			return nil, nil
		}
		return nil, fmt.Errorf("reading the image's %s: %w", name, err)
	}
	if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("reading the image's %s: not a regular file", name)
	}
	f, err := root.Open(name)
	if err != nil {
		return nil, fmt.Errorf("reading the image's %s: %w", name, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxAccountFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading the image's %s: %w", name, err)
	}
	if len(b) > maxAccountFile {
		return nil, fmt.Errorf("reading the image's %s: larger than %d bytes", name, maxAccountFile)
	}
	return b, nil
}

// resolve finds out who u is. Group membership comes from /etc/group for the
// user's name, as container engines do it.
func (u *User) resolve(passwd []passwdEntry, groups []groupEntry) (*identity, error) {
	id := &identity{Home: "/"}
	userPart, groupPart := "0", ""
	switch {
	case u.UID != nil:
		userPart = strconv.FormatUint(uint64(*u.UID), 10)
	case u.Spec != "":
		var hasGroup bool
		userPart, groupPart, hasGroup = strings.Cut(u.Spec, ":")
		if userPart == "" {
			userPart = "0"
		}
		if hasGroup && groupPart == "" {
			return nil, fmt.Errorf("user %q: empty group", u.Spec)
		}
	}

	var entry *passwdEntry
	for i := range passwd {
		if passwd[i].Name == userPart {
			entry = &passwd[i]
			break
		}
	}
	n, numeric := parseID(userPart)
	if u.UID != nil {
		n, numeric = *u.UID, true
	}
	if numeric && (entry == nil || u.UID != nil) {
		entry = nil
		for i := range passwd {
			if passwd[i].UID == n {
				entry = &passwd[i]
				break
			}
		}
	}
	switch {
	case entry != nil:
		id.UID, id.GID, id.Home = entry.UID, entry.GID, entry.Home
	case numeric:
		id.UID = n
	default:
		return nil, fmt.Errorf("user %q is not in the image's /etc/passwd", userPart)
	}
	if id.Home == "" {
		id.Home = "/"
	}
	if u.NonRoot && id.UID == 0 {
		return nil, errors.New("the container must not run as root, but its user is uid 0")
	}

	if groupPart != "" {
		gid, err := lookupGroup(groups, groupPart)
		if err != nil {
			return nil, err
		}
		id.GID = gid
	}
	if u.GID != nil {
		id.GID = *u.GID
	}
	id.Groups = append(id.Groups, id.GID)
	if entry != nil {
		for _, g := range groups {
			if slices.Contains(g.Members, entry.Name) {
				id.Groups = append(id.Groups, g.GID)
			}
		}
	}
	id.Groups = append(id.Groups, u.Groups...)
	slices.Sort(id.Groups)
	id.Groups = slices.Compact(id.Groups)
	if len(id.Groups) > maxGroups {
		return nil, fmt.Errorf("user is in %d groups, at most %d", len(id.Groups), maxGroups)
	}
	return id, nil
}

func lookupGroup(groups []groupEntry, name string) (uint32, error) {
	for _, g := range groups {
		if g.Name == name {
			return g.GID, nil
		}
	}
	if gid, ok := parseID(name); ok {
		return gid, nil
	}
	return 0, fmt.Errorf("group %q is not in the image's /etc/group", name)
}
