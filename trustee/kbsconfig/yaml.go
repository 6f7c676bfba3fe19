package kbsconfig

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// ParseYAML reads a file in YAML: one document of maps, lists and plain values, as JSON
// could say it. Aliases, merged keys, tags of its own and keys that are given twice are
// refused.
func ParseYAML(b []byte) (*Config, error) {
	m, err := decodeYAML(b)
	if err != nil {
		return nil, err
	}
	return mapped(m)
}

func decodeYAML(b []byte) (map[string]any, error) {
	if len(b) > MaxSize {
		return nil, fmt.Errorf("more than %d bytes", MaxSize)
	}
	if err := shallow(b); err != nil {
		return nil, err
	}
	d := yaml.NewDecoder(bytes.NewReader(b))
	var doc yaml.Node
	if err := d.Decode(&doc); err != nil {
		return nil, err
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("data after the document")
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 {
		return nil, errors.New("not one document")
	}
	v, err := yamlValue(doc.Content[0], 0)
	if err != nil {
		return nil, err
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil, errors.New("not a map of settings")
	}
	return m, nil
}

// yamlValue gives what decodeJSON gives for the same in JSON.
func yamlValue(n *yaml.Node, depth int) (any, error) {
	if depth > 2*maxDepth {
		return nil, errors.New("nested too deeply")
	}
	at := func(why string) error { return fmt.Errorf("line %d: %s", n.Line, why) }
	if n.Anchor != "" {
		return nil, at("anchors and aliases are not taken")
	}
	switch n.Kind {
	case yaml.MappingNode:
		m := map[string]any{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			k := n.Content[i]
			if k.Kind != yaml.ScalarNode || k.ShortTag() != "!!str" || k.Anchor != "" {
				return nil, at("a key is not a plain string")
			}
			if _, twice := m[k.Value]; twice {
				return nil, at(fmt.Sprintf("%.80q is given twice", k.Value))
			}
			v, err := yamlValue(n.Content[i+1], depth+1)
			if err != nil {
				return nil, err
			}
			m[k.Value] = v
		}
		return m, nil
	case yaml.SequenceNode:
		l := []any{}
		for _, e := range n.Content {
			v, err := yamlValue(e, depth+1)
			if err != nil {
				return nil, err
			}
			l = append(l, v)
		}
		return l, nil
	case yaml.ScalarNode:
		switch n.ShortTag() {
		case "!!str":
			return n.Value, nil
		case "!!bool":
			if b, err := strconv.ParseBool(n.Value); err == nil {
				return b, nil
			}
			return nil, at(fmt.Sprintf("%.40q is neither true nor false", n.Value))
		case "!!int", "!!float":
			if json.Valid([]byte(n.Value)) { // decimal, and neither .inf nor .nan
				return json.Number(n.Value), nil
			}
			return nil, at(fmt.Sprintf("%.40q is no decimal number: put it into quotes, if it is none", n.Value))
		case "!!null":
			return nil, at("a key without a value")
		}
		return nil, at(fmt.Sprintf("a value of type %.40s", n.ShortTag()))
	}
	return nil, at("anchors and aliases are not taken")
}
