package seal

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/owner/pod"
)

// Size is the VM's, which runtimes of a cluster read from the pod's annotations:
// what some TEEs measure depends on it. Zero members are not written.
type Size struct{ MemoryMiB, VCPUs int }

// handlerAnnotation tells containerd by which handler's snapshotter to pull the
// pod's images: the kubelet does not say that yet (Kubernetes' gate
// RuntimeClassInImageCriApi). Coffer's handlers have the names of their classes.
const handlerAnnotation = "io.containerd.cri.runtime-handler"

// Annotate gives the manifest with the annotations of initdata and size in its
// Pod. All other bytes stay: comments, order, flow or block style. The result is
// read again and compared, so that a text that cannot be edited so is an error.
func Annotate(p *pod.Pod, document []byte, size Size) ([]byte, error) {
	text, err := initdata.EncodeAnnotation(document)
	if err != nil {
		return nil, fmt.Errorf("annotating the pod: %w", err)
	}
	notes := [][2]string{{initdata.AnnotationKey, text}}
	if size.VCPUs > 0 {
		notes = append(notes, [2]string{launch.AnnotationVCPUs, strconv.Itoa(size.VCPUs)})
	}
	if size.MemoryMiB > 0 {
		notes = append(notes, [2]string{launch.AnnotationMemory, strconv.Itoa(size.MemoryMiB)})
	}
	if class := p.Spec.RuntimeClassName; class != nil && *class != "" {
		notes = append(notes, [2]string{handlerAnnotation, *class})
	}
	out := p.Source
	want := p.Pod.DeepCopy()
	if want.Annotations == nil {
		want.Annotations = map[string]string{}
	}
	for _, n := range notes {
		if out, err = annotate(out, n[0], n[1]); err != nil {
			return nil, fmt.Errorf("annotating the pod: %w", err)
		}
		want.Annotations[n[0]] = n[1]
	}
	again, err := pod.Parse(out)
	if err != nil {
		return nil, fmt.Errorf("annotating the pod: the result does not read: %w", err)
	}
	if !reflect.DeepEqual(want, again.Pod) || !reflect.DeepEqual(p.ConfigMaps, again.ConfigMaps) || !reflect.DeepEqual(p.Secrets, again.Secrets) {
		return nil, errors.New("annotating the pod: its text cannot be edited without changing its meaning; write metadata in plain block style")
	}
	return out, nil
}

func annotate(source []byte, key, value string) ([]byte, error) {
	for _, seg := range segments(source) {
		var root yaml.Node
		if err := yaml.Unmarshal(source[seg[0]:seg[1]], &root); err != nil || len(root.Content) == 0 {
			continue
		}
		top := root.Content[0]
		if k := member(top, "kind"); k == nil || k.Value != "Pod" {
			continue
		}
		meta := member(top, "metadata")
		if meta == nil || meta.Kind != yaml.MappingNode || len(meta.Content) == 0 {
			return nil, errors.New("metadata is no mapping with members")
		}
		e := &editor{text: source[seg[0]:seg[1]]}
		edited, err := e.put(meta, key, value)
		if err != nil {
			return nil, err
		}
		return bytes.Join([][]byte{source[:seg[0]], edited, source[seg[1]:]}, nil), nil
	}
	return nil, errors.New("no Pod found")
}

// segments gives the byte ranges of the documents, split as Kubernetes' reader
// does: at lines of --- with nothing or a comment behind.
func segments(source []byte) [][2]int {
	var out [][2]int
	start := 0
	for pos := 0; pos < len(source); {
		end := len(source)
		if i := bytes.IndexByte(source[pos:], '\n'); i >= 0 {
			end = pos + i + 1
		}
		if rest, ok := bytes.CutPrefix(source[pos:end], []byte("---")); ok {
			if rest = bytes.TrimSpace(rest); len(rest) == 0 || rest[0] == '#' {
				out = append(out, [2]int{start, pos})
				start = end
			}
		}
		pos = end
	}
	return append(out, [2]int{start, len(source)})
}

func member(m *yaml.Node, name string) *yaml.Node {
	if m.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == name {
			return m.Content[i+1]
		}
	}
	return nil
}

// editor changes the text of one document at places that the parser names.
type editor struct{ text []byte }

func (e *editor) put(meta *yaml.Node, key, value string) ([]byte, error) {
	notes := member(meta, "annotations")
	switch {
	case notes == nil:
		return e.insert(meta, "annotations", "{"+quoted(key)+": "+quoted(value)+"}", func(indent string) string {
			return indent + "annotations:\n" + indent + "  " + key + ": " + plain(value) + "\n"
		})
	case notes.Kind != yaml.MappingNode || len(notes.Content) == 0:
		return nil, errors.New("metadata.annotations is empty: remove it")
	}
	if old := member(notes, key); old != nil {
		return e.replace(old, value)
	}
	return e.insert(notes, key, quoted(value), func(indent string) string { return indent + key + ": " + plain(value) + "\n" })
}

// insert puts a member before the first member of m: in a flow mapping behind
// its brace, in a block mapping as lines of its own.
func (e *editor) insert(m *yaml.Node, name, flow string, block func(indent string) string) ([]byte, error) {
	if m.Style&yaml.FlowStyle != 0 {
		at, err := e.offset(m)
		if err != nil || e.text[at] != '{' {
			return nil, fmt.Errorf("no brace where the mapping begins")
		}
		return e.splice(at+1, at+1, quoted(name)+": "+flow+", "), nil
	}
	first := m.Content[0]
	at, err := e.offset(first)
	if err != nil {
		return nil, err
	}
	line := bytes.LastIndexByte(e.text[:at], '\n') + 1
	indent := string(e.text[line:at])
	if strings.Trim(indent, " ") != "" {
		return nil, errors.New("the mapping's first member does not begin its line")
	}
	return e.splice(line, line, block(indent)), nil
}

// replace puts value in the place of a scalar on one line.
func (e *editor) replace(old *yaml.Node, value string) ([]byte, error) {
	at, err := e.offset(old)
	if err != nil {
		return nil, err
	}
	end := at + len(old.Value)
	if q := e.text[at]; q == '"' || q == '\'' {
		n := bytes.IndexByte(e.text[at+1:], q)
		if n < 0 {
			return nil, errors.New("the old annotation has no closing quote")
		}
		end, value = at+1+n+1, quoted(value)
	} else if old.Style != 0 || end > len(e.text) || string(e.text[at:end]) != old.Value {
		return nil, errors.New("the old annotation is not on one line: remove it")
	}
	return e.splice(at, end, value), nil
}

func (e *editor) splice(from, to int, s string) []byte {
	return bytes.Join([][]byte{e.text[:from], []byte(s), e.text[to:]}, nil)
}

// offset turns the parser's line and column (in characters) into a byte offset.
func (e *editor) offset(n *yaml.Node) (int, error) {
	at := 0
	for range n.Line - 1 {
		i := bytes.IndexByte(e.text[at:], '\n')
		if i < 0 {
			return 0, errors.New("a place beyond the text")
		}
		at += i + 1
	}
	for range n.Column - 1 {
		_, size := utf8.DecodeRune(e.text[at:])
		at += size
	}
	if at >= len(e.text) {
		return 0, errors.New("a place beyond the text")
	}
	return at, nil
}

// plain gives a scalar that reads as a string: only numbers need quotes.
func plain(s string) string {
	if _, err := strconv.Atoi(s); err == nil {
		return quoted(s)
	}
	return s
}

// quoted gives a YAML and JSON string; keys and base64 need no escapes.
func quoted(s string) string { return `"` + s + `"` }
