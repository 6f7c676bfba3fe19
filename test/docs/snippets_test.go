package docs

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var target = regexp.MustCompile(`(?m)^([a-z0-9-]+):.*## `)

func makeTargets(t *testing.T) map[string]bool {
	t.Helper()
	ts := map[string]bool{}
	for _, m := range target.FindAllStringSubmatch(read(t, "Makefile"), -1) {
		ts[m[1]] = true
	}
	if !ts["demo"] || !ts["test"] {
		t.Fatalf("no targets demo and test in the Makefile: %v", ts)
	}
	return ts
}

// code gives what a document shows as commands: indented or fenced lines, and
// `spans`.
func code(text string) []string {
	var out []string
	fenced := false
	for l := range strings.Lines(text) {
		l = strings.TrimRight(l, "\n")
		switch {
		case strings.HasPrefix(l, "```"):
			fenced = !fenced
		case fenced, strings.HasPrefix(l, "    "):
			out = append(out, strings.TrimSpace(l))
		default:
			for i, span := range strings.Split(l, "`") {
				if i%2 == 1 {
					out = append(out, span)
				}
			}
		}
	}
	return out
}

// TestMakeTargetsExist checks every `make X` that a document shows.
func TestMakeTargetsExist(t *testing.T) {
	known := makeTargets(t)
	n := 0
	for _, f := range walk(t, ".md") {
		for _, c := range code(read(t, f)) {
			words := strings.Fields(c)
			if len(words) < 2 || words[0] != "make" {
				continue
			}
			for _, w := range words[1:] {
				if w == "#" {
					break
				}
				if strings.Contains(w, "=") || strings.HasPrefix(w, "'") || strings.HasPrefix(w, "-") {
					continue
				}
				n++
				if !known[w] {
					t.Errorf("%s: make %s: no such target (%s)", f, w, c)
				}
			}
		}
	}
	if n < 5 {
		t.Errorf("found only %d mentions of make: the search is broken", n)
	}
}

// TestCommandsExist asks the built coffer about every command that a document
// shows, with its flags.
func TestCommandsExist(t *testing.T) {
	exe := filepath.Join(t.TempDir(), "coffer")
	build := exec.Command("go", "build", "-o", exe, "./cmd/coffer")
	build.Dir = root
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building coffer: %v: %s", err, out)
	}
	help := map[string]string{}
	n := 0
	for _, f := range walk(t, ".md") {
		for _, c := range code(read(t, f)) {
			words := strings.Fields(strings.TrimPrefix(c, "$ "))
			if len(words) < 2 || words[0] != "coffer" || !word.MatchString(words[1]) {
				continue
			}
			n++
			checkCommand(t, f, exe, words[1:], help)
		}
	}
	if n < 5 {
		t.Errorf("found only %d mentions of coffer: the search is broken", n)
	}
}

var word = regexp.MustCompile(`^[a-z][a-z-]*$`)

// planned are commands that documents may name as coming.
var planned = map[string]bool{"doctor": true}

// groups have commands below them.
var groups = map[string]bool{
	"image": true, "secret": true, "guest": true, "namespace": true, "reference-values": true, "policy": true, "resource-policy": true, "audit": true, "collateral": true, "root": true, "anchor": true, "credential": true, "token-key": true, "identity": true, "sgx": true, "sev": true,
}

func checkCommand(t *testing.T, file, exe string, words []string, help map[string]string) {
	t.Helper()
	if planned[words[0]] {
		return
	}
	n := 1
	if groups[words[0]] && len(words) > 1 && word.MatchString(words[1]) {
		n = 2
	}
	name := strings.Join(words[:n], " ")
	text, ok := help[name]
	if !ok {
		out, err := exec.Command(exe, append(append([]string{"help"}, words[:n]...), "--")...).CombinedOutput()
		text = string(out)
		if err != nil || !strings.Contains(text, "coffer "+name) {
			text = ""
		}
		help[name] = text
	}
	if text == "" {
		t.Errorf("%s: coffer %s: no such command", file, name)
		return
	}
	for _, w := range words[n:] {
		if w == "--" || w == "#" {
			return
		}
		flag, _, _ := strings.Cut(w, "=")
		flag = strings.TrimRight(flag, "],.)")
		if strings.HasPrefix(flag, "--") && !strings.Contains(text, flag+" ") && !strings.Contains(text, flag+"\n") && !strings.Contains(text, flag+"[") {
			t.Errorf("%s: coffer %s has no flag %s", file, name, flag)
		}
	}
}

var link = regexp.MustCompile(`\]\(([^)#]+)\)`)

// TestLinksLeadSomewhere checks the links between documents.
func TestLinksLeadSomewhere(t *testing.T) {
	for _, f := range walk(t, ".md") {
		for _, m := range link.FindAllStringSubmatch(read(t, f), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(root, filepath.Dir(f), m[1])); err != nil {
				t.Errorf("%s links to %s, which is not there", f, m[1])
			}
		}
	}
}
