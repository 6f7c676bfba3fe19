package podpolicy

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/cofferproject/coffer/api/denial"
)

// denyUnknown denies a message that carries, at any depth, a field this build
// does not know: what cannot be judged cannot be allowed.
func denyUnknown(m protoreflect.Message, path string) *denial.Denial {
	if len(m.GetUnknown()) > 0 {
		return deny(UnknownField, path, "a field of unknown number", "only known fields")
	}
	var d *denial.Denial
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		sub := path + "." + string(fd.Name())
		switch {
		case fd.IsMap():
			if fd.MapValue().Message() != nil {
				v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
					d = denyUnknown(v.Message(), fmt.Sprintf("%s[%s]", sub, k.String()))
					return d == nil
				})
			}
		case fd.Message() == nil:
		case fd.IsList():
			for i := range v.List().Len() {
				if d = denyUnknown(v.List().Get(i).Message(), fmt.Sprintf("%s[%d]", sub, i)); d != nil {
					break
				}
			}
		default:
			d = denyUnknown(v.Message(), sub)
		}
		return d == nil
	})
	return d
}

// diff denies got if any field differs from want; claim names the message. A
// message that is present where none belongs is denied even if it is empty. This is the last net under the typed
// comparisons: a field that nobody thought of must be as the policy builds it.
func diff(claim string, got, want protoreflect.Message) *denial.Denial {
	fields := got.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		path := claim + "." + string(fd.Name())
		g, w := got.Get(fd), want.Get(fd)
		switch {
		case fd.IsMap():
			if d := diffMap(path, g.Map(), w.Map()); d != nil {
				return d
			}
		case fd.IsList():
			if d := diffList(path, fd, g.List(), w.List()); d != nil {
				return d
			}
		case fd.Message() != nil:
			if got.Has(fd) && !want.Has(fd) {
				return deny(UnexpectedField, path, "present", "absent")
			}
			if d := diff(path, g.Message(), w.Message()); d != nil {
				return d
			}
		case !g.Equal(w):
			return deny(UnexpectedField, path, show(g), show(w))
		}
	}
	return nil
}

func diffList(path string, fd protoreflect.FieldDescriptor, g, w protoreflect.List) *denial.Denial {
	if g.Len() != w.Len() {
		return deny(UnexpectedField, path, fmt.Sprintf("%d items", g.Len()), fmt.Sprintf("%d items", w.Len()))
	}
	for i := range g.Len() {
		sub := fmt.Sprintf("%s[%d]", path, i)
		if fd.Message() != nil {
			if d := diff(sub, g.Get(i).Message(), w.Get(i).Message()); d != nil {
				return d
			}
		} else if !g.Get(i).Equal(w.Get(i)) {
			return deny(UnexpectedField, sub, show(g.Get(i)), show(w.Get(i)))
		}
	}
	return nil
}

// diffMap compares maps of scalars, the only maps in the requests.
func diffMap(path string, g, w protoreflect.Map) *denial.Denial {
	var d *denial.Denial
	g.Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
		if !w.Has(k) {
			d = deny(UnexpectedField, fmt.Sprintf("%s[%s]", path, k.String()), show(v), "no such entry")
		} else if !v.Equal(w.Get(k)) {
			d = deny(UnexpectedField, fmt.Sprintf("%s[%s]", path, k.String()), show(v), show(w.Get(k)))
		}
		return d == nil
	})
	if d != nil {
		return d
	}
	w.Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
		if !g.Has(k) {
			d = deny(UnexpectedField, fmt.Sprintf("%s[%s]", path, k.String()), "missing", show(v))
		}
		return d == nil
	})
	return d
}

func show(v protoreflect.Value) string {
	if s := strings.TrimSpace(v.String()); s != "" {
		return s
	}
	return "empty"
}
