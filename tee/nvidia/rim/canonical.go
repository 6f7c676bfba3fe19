package rim

import (
	"maps"
	"slices"
	"strings"
)

// canonical writes an element as Canonical XML 1.1 without comments, leaving
// out one element below it. Documents here have no xml:... attributes, so
// version 1.0 would be the same.
func canonical(e, without *element) []byte {
	var b strings.Builder
	// At the top every namespace in scope is written, below only what changes.
	scope := map[string]string{}
	for x := e; x != nil; x = x.parent {
		for p, u := range x.declared {
			if _, nearer := scope[p]; !nearer {
				scope[p] = u
			}
		}
	}
	write(&b, e, without, scope, map[string]string{})
	return []byte(b.String())
}

// write writes e, whose namespaces are in scope, below a parent that has those
// of outer.
func write(b *strings.Builder, e, without *element, scope, outer map[string]string) {
	name := e.local
	if e.prefix != "" {
		name = e.prefix + ":" + e.local
	}
	b.WriteString("<" + name)
	for _, p := range slices.Sorted(maps.Keys(scope)) {
		if scope[p] == outer[p] {
			continue
		}
		if p == "" {
			b.WriteString(` xmlns="`)
		} else {
			b.WriteString(" xmlns:" + p + `="`)
		}
		b.WriteString(escapeValue.Replace(scope[p]) + `"`)
	}
	attrs := slices.Clone(e.attrs)
	slices.SortFunc(attrs, func(a, c attribute) int {
		if d := strings.Compare(a.uri, c.uri); d != 0 {
			return d
		}
		return strings.Compare(a.local, c.local)
	})
	for _, a := range attrs {
		b.WriteString(" ")
		if a.prefix != "" {
			b.WriteString(a.prefix + ":")
		}
		b.WriteString(a.local + `="` + escapeValue.Replace(a.value) + `"`)
	}
	b.WriteString(">")
	for _, c := range e.children {
		switch {
		case c.elem == nil:
			b.WriteString(escapeText.Replace(c.text))
		case c.elem != without:
			inner := scope
			if len(c.elem.declared) > 0 {
				inner = maps.Clone(scope)
				maps.Copy(inner, c.elem.declared)
			}
			write(b, c.elem, without, inner, scope)
		}
	}
	b.WriteString("</" + name + ">")
}

var (
	escapeText  = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "\r", "&#xD;")
	escapeValue = strings.NewReplacer("&", "&amp;", "<", "&lt;", `"`, "&quot;", "\t", "&#x9;", "\n", "&#xA;", "\r", "&#xD;")
)
