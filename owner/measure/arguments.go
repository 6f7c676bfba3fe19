package measure

import (
	"fmt"
	"slices"
	"strings"
)

// maxArguments bounds the comparison, which is quadratic.
const maxArguments = 512

// argumentChanges says how a kernel command line differs from another, argument by
// argument; nil where the two are too long, or differ in blanks alone.
func argumentChanges(before, after string) []string {
	a, b := strings.Fields(before), strings.Fields(after)
	if len(a) > maxArguments || len(b) > maxArguments {
		return nil
	}
	var removed, added []string
	for i, j := range common(a, b) {
		if j < 0 {
			removed = append(removed, a[i])
			continue
		}
		b[j] = "" // no argument is empty
	}
	for _, s := range b {
		if s != "" {
			added = append(added, s)
		}
	}
	var out []string
	for _, s := range removed {
		key, _, _ := strings.Cut(s, "=")
		i := slices.Index(added, s)
		if i < 0 {
			i = slices.IndexFunc(added, func(t string) bool { k, _, _ := strings.Cut(t, "="); return k == key })
		}
		switch {
		case i < 0:
			out = append(out, s+" was removed")
			continue
		case added[i] == s:
			out = append(out, s+" has moved")
		default:
			out = append(out, fmt.Sprintf("%s became %s", s, added[i]))
		}
		added = slices.Delete(added, i, i+1)
	}
	for _, s := range added {
		out = append(out, s+" was added")
	}
	return out
}

// common gives for each element of a its place in b in a longest common
// subsequence, -1 if it is not in that.
func common(a, b []string) []int {
	n := make([][]int, len(a)+1)
	for i := range n {
		n[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				n[i][j] = n[i+1][j+1] + 1
			} else {
				n[i][j] = max(n[i+1][j], n[i][j+1])
			}
		}
	}
	out := make([]int, len(a))
	for i := range out {
		out[i] = -1
	}
	for i, j := 0, 0; i < len(a) && j < len(b); {
		switch {
		case a[i] == b[j]:
			out[i] = j
			i, j = i+1, j+1
		case n[i+1][j] >= n[i][j+1]:
			i++
		default:
			j++
		}
	}
	return out
}
