package policy

import (
	"embed"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// DefaultID is the policy that is used where none is asked for.
const DefaultID = "default"

// Classes of devices, each with policies of its own: the policy "default" is
// "default_cpu" for a CPU.
var Classes = []string{"cpu", "gpu", "switch", "ppcie", "dcu", "nvidia-dpu"}

//go:embed defaults/*.rego
var defaults embed.FS

// DefaultText gives the text of the embedded default policy of a class.
func DefaultText(class string) (string, bool) {
	if !slices.Contains(Classes, class) {
		return "", false
	}
	b, err := defaults.ReadFile("defaults/" + class + ".rego")
	return string(b), err == nil
}

var compiled = struct {
	sync.Mutex
	m map[string]*Policy
}{m: map[string]*Policy{}}

// Default gives the embedded default policy of a class, compiled once.
func Default(class string) (*Policy, error) {
	compiled.Lock()
	defer compiled.Unlock()
	if p := compiled.m[class]; p != nil {
		return p, nil
	}
	text, ok := DefaultText(class)
	if !ok {
		return nil, fmt.Errorf("policy: no default for devices of class %.40q", class)
	}
	p, err := Compile(Name(DefaultID, class), text)
	if err != nil {
		return nil, err
	}
	compiled.m[class] = p
	return p, nil
}

// Name gives the name of a policy for a class: "<id>_<class>".
func Name(id, class string) string { return id + "_" + class }

// ClassOf gives the class that a policy's name ends in.
func ClassOf(name string) (class string, ok bool) {
	for _, c := range Classes {
		if id, is := strings.CutSuffix(name, "_"+c); is && id != "" {
			return c, true
		}
	}
	return "", false
}
