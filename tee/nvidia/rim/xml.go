package rim

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Limits of a document.
const (
	MaxXML        = 1 << 20
	maxDepth      = 16
	maxElements   = 4096
	maxAttributes = 300
)

// element is one element of the small part of XML that manifests use: elements,
// attributes, namespaces and text. Declarations beyond the first line, comments,
// processing instructions, CDATA, document types, character references and
// xml:... attributes are errors, so that there is one way only to read it.
type element struct {
	prefix, local string
	uri           string            // of the prefix
	declared      map[string]string // prefix ("": default) to URI, declared here
	attrs         []attribute
	parent        *element
	children      []node
}

type attribute struct {
	prefix, local, uri string
	value              string
}

// node is an element or, if that is nil, text.
type node struct {
	elem *element
	text string
}

// scanner reads a document from the front.
type scanner struct {
	s     string
	off   int
	count int
}

func parseXML(b []byte) (*element, error) {
	if len(b) > MaxXML {
		return nil, fmt.Errorf("%d bytes, at most %d", len(b), MaxXML)
	}
	s := string(b)
	if !utf8.ValidString(s) {
		return nil, errors.New("not UTF-8")
	}
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' && r != '\t' && r != '\n' && r != '\r' || r == 0xfffe || r == 0xffff }) {
		return nil, errors.New("a character that XML does not have")
	}
	// XML 1.0, 2.11: ends of lines.
	s = strings.ReplaceAll(strings.ReplaceAll(s, "\r\n", "\n"), "\r", "\n")
	s = strings.TrimPrefix(s, `<?xml version="1.0" encoding="UTF-8"?>`)
	p := &scanner{s: s}
	p.space()
	root, err := p.element(nil, 0)
	if err != nil {
		return nil, fmt.Errorf("at %d: %w", p.off, err)
	}
	if p.space(); p.off != len(p.s) {
		return nil, fmt.Errorf("at %d: data after the document", p.off)
	}
	return root, nil
}

func (p *scanner) space() bool {
	start := p.off
	for p.off < len(p.s) && strings.IndexByte(" \t\n", p.s[p.off]) >= 0 {
		p.off++
	}
	return p.off > start
}

func (p *scanner) eat(s string) bool {
	if !strings.HasPrefix(p.s[p.off:], s) {
		return false
	}
	p.off += len(s)
	return true
}

// name reads a name with at most one colon, of the letters that are in use.
func (p *scanner) name() (prefix, local string, err error) {
	start := p.off
	for p.off < len(p.s) {
		c := p.s[p.off]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_'
		if !letter && (p.off == start || !(c >= '0' && c <= '9' || c == '-' || c == '.' || c == ':')) {
			break
		}
		p.off++
	}
	prefix, local, found := strings.Cut(p.s[start:p.off], ":")
	if !found {
		prefix, local = "", prefix
	}
	if local == "" || found && prefix == "" || strings.Contains(local, ":") || strings.IndexByte("0123456789-.", local[0]) >= 0 {
		return "", "", errors.New("no name")
	}
	return prefix, local, nil
}

func (p *scanner) element(parent *element, depth int) (*element, error) {
	if p.count++; p.count > maxElements || depth > maxDepth {
		return nil, errors.New("too many elements, or nested too deeply")
	}
	if !p.eat("<") {
		return nil, errors.New("no element")
	}
	e := &element{parent: parent, declared: map[string]string{}}
	var err error
	if e.prefix, e.local, err = p.name(); err != nil {
		return nil, err
	}
	empty, err := p.attributes(e)
	if err != nil {
		return nil, err
	}
	if err := e.resolve(); err != nil || empty {
		return e, err
	}
	for {
		switch {
		case p.off == len(p.s):
			return nil, errors.New("an element does not end")
		case p.eat("</"):
			prefix, local, err := p.name()
			if err != nil {
				return nil, err
			}
			p.space()
			if prefix != e.prefix || local != e.local || !p.eat(">") {
				return nil, fmt.Errorf("element %s ends as another", e.local)
			}
			return e, nil
		case p.s[p.off] == '<':
			child, err := p.element(e, depth+1)
			if err != nil {
				return nil, err
			}
			e.children = append(e.children, node{elem: child})
		default:
			n := strings.IndexByte(p.s[p.off:], '<')
			if n < 0 {
				return nil, errors.New("an element does not end")
			}
			raw := p.s[p.off : p.off+n]
			if strings.Contains(raw, "]]>") {
				return nil, errors.New("]]> in text")
			}
			text, err := unescape(raw)
			if err != nil {
				return nil, err
			}
			e.children = append(e.children, node{text: text})
			p.off += n
		}
	}
}

// attributes reads up to the end of a start tag.
func (p *scanner) attributes(e *element) (empty bool, err error) {
	for {
		spaced := p.space()
		switch {
		case p.eat("/>"):
			return true, nil
		case p.eat(">"):
			return false, nil
		case !spaced:
			return false, errors.New("a tag does not end")
		}
		prefix, local, err := p.name()
		if err != nil {
			return false, err
		}
		if !p.eat("=") || p.off == len(p.s) {
			return false, errors.New("an attribute without a value")
		}
		q := p.s[p.off : p.off+1]
		if q != `"` && q != "'" {
			return false, errors.New("a value without quotes")
		}
		p.off++
		n := strings.Index(p.s[p.off:], q)
		if n < 0 {
			return false, errors.New("a value does not end")
		}
		raw := p.s[p.off : p.off+n]
		p.off += n + 1
		if strings.ContainsAny(raw, "<\t\n") {
			return false, errors.New("a value with a tag or an end of line in it")
		}
		value, err := unescape(raw)
		if err != nil {
			return false, err
		}
		if err := e.add(prefix, local, value); err != nil {
			return false, err
		}
	}
}

func (e *element) add(prefix, local, value string) error {
	declare := ""
	switch {
	case prefix == "xml" || local == "xml" && prefix == "xmlns" || prefix == "xmlns" && local == "xmlns":
		return errors.New("attributes of xml: are not taken")
	case prefix == "xmlns":
		declare = local
		if value == "" {
			return errors.New("a prefix without a namespace")
		}
	case prefix == "" && local == "xmlns":
	default:
		for _, a := range e.attrs {
			if a.prefix == prefix && a.local == local {
				return fmt.Errorf("attribute %s comes twice", local)
			}
		}
		if len(e.attrs) == maxAttributes {
			return errors.New("too many attributes")
		}
		e.attrs = append(e.attrs, attribute{prefix: prefix, local: local, value: value})
		return nil
	}
	if _, dup := e.declared[declare]; dup || len(e.declared) == maxAttributes {
		return errors.New("a namespace is declared twice, or too many are")
	}
	e.declared[declare] = value
	return nil
}

// lookup gives the namespace of a prefix at e.
func (e *element) lookup(prefix string) (string, bool) {
	for x := e; x != nil; x = x.parent {
		if u, ok := x.declared[prefix]; ok {
			return u, true
		}
	}
	return "", prefix == ""
}

// resolve finds the namespaces of the element's and the attributes' names.
func (e *element) resolve() error {
	var ok bool
	if e.uri, ok = e.lookup(e.prefix); !ok {
		return fmt.Errorf("prefix %s is not declared", e.prefix)
	}
	for i := range e.attrs {
		a := &e.attrs[i]
		if a.prefix == "" {
			continue
		}
		if a.uri, ok = e.lookup(a.prefix); !ok {
			return fmt.Errorf("prefix %s is not declared", a.prefix)
		}
		for j := range i {
			if e.attrs[j].uri == a.uri && e.attrs[j].local == a.local {
				return fmt.Errorf("attribute %s comes twice", a.local)
			}
		}
	}
	return nil
}

// unescape replaces the five entities; there are no others here.
func unescape(s string) (string, error) {
	for rest := s; ; {
		i := strings.IndexByte(rest, '&')
		if i < 0 {
			break
		}
		rest = rest[i:]
		if !strings.HasPrefix(rest, "&amp;") && !strings.HasPrefix(rest, "&lt;") && !strings.HasPrefix(rest, "&gt;") &&
			!strings.HasPrefix(rest, "&quot;") && !strings.HasPrefix(rest, "&apos;") {
			return "", errors.New("a reference that is none of the five")
		}
		rest = rest[1:]
	}
	return strings.NewReplacer("&lt;", "<", "&gt;", ">", "&quot;", `"`, "&apos;", "'", "&amp;", "&").Replace(s), nil
}
