package pod

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// Parse reads a manifest: one Pod, and the ConfigMaps and Secrets that it uses,
// as YAML or JSON documents. The error is an *Error with every problem found.
func Parse(source []byte) (*Pod, error) {
	ps := new(problems)
	if len(source) > MaxSize {
		ps.add("", "the file has %d bytes, at most %d", len(source), MaxSize)
		return nil, ps.err()
	}
	docs, err := documents(source)
	if err != nil {
		ps.add("", "%s", err)
		return nil, ps.err()
	}
	p := &Pod{Source: source, ConfigMaps: map[string]*corev1.ConfigMap{}, Secrets: map[string]*corev1.Secret{}}
	var configMaps []*corev1.ConfigMap
	var secrets []*corev1.Secret
	pods := 0
	for _, d := range docs {
		switch d.kind {
		case "v1 Pod":
			pods++
			if pods == 1 {
				p.Pod = new(corev1.Pod)
				d.decode(p.Pod, "", ps)
			}
		case "v1 ConfigMap":
			c := new(corev1.ConfigMap)
			d.decode(c, "ConfigMap ", ps)
			configMaps = append(configMaps, c)
		case "v1 Secret":
			s := new(corev1.Secret)
			d.decode(s, "Secret ", ps)
			secrets = append(secrets, s)
		default:
			ps.add(fmt.Sprintf("document %d", d.index), "%s", foreign(d.kind))
		}
	}
	if pods != 1 {
		ps.add("", "the file has %d Pods, exactly one belongs in it", pods)
		return nil, ps.err()
	}
	ps.noNamespace = p.Namespace == ""
	setDefaults(p.Pod)
	collect(p, configMaps, secrets, ps)
	if len(ps.list) == 0 {
		p.check(ps) // needs a structure that decoded
	}
	if err := ps.err(); err != nil {
		return nil, err
	}
	slices.Sort(ps.notes)
	p.Notes = slices.Compact(ps.notes)
	slices.Sort(ps.sealNotes)
	p.SealNotes = slices.Compact(ps.sealNotes)
	p.Cluster, p.Unsealable = ps.cluster, ps.unsealable
	return p, nil
}

func foreign(kind string) string {
	switch {
	case kind == " ":
		return "neither apiVersion nor kind: no Kubernetes object"
	case strings.HasPrefix(kind, "apps/") || strings.HasPrefix(kind, "batch/") || kind == "v1 ReplicationController":
		return kind + ": a controller's object; coffer run takes its Pod (spec.template)"
	default:
		return kind + ": only v1 Pod, ConfigMap and Secret belong in the file"
	}
}

// document is one YAML document.
type document struct {
	index int
	kind  string // "apiVersion kind"
	tree  map[string]any
	json  []byte
}

// documents splits source. Comments and empty documents are skipped; a member
// given twice is an error.
func documents(source []byte) ([]*document, error) {
	var out []*document
	r := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(source)))
	for n := 1; ; n++ {
		raw, err := r.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("splitting the file into documents: %w", err)
		}
		j, err := yaml.YAMLToJSONStrict(raw)
		if err != nil {
			return nil, fmt.Errorf("document %d: %s", n, strings.TrimPrefix(strings.ReplaceAll(err.Error(), "\n", " "), "error converting YAML to JSON: "))
		}
		if bytes.Equal(bytes.TrimSpace(j), []byte("null")) {
			continue
		}
		d := &document{index: n, json: j}
		if err := json.Unmarshal(j, &d.tree); err != nil {
			return nil, fmt.Errorf("document %d: no mapping", n)
		}
		apiVersion, _ := d.tree["apiVersion"].(string)
		kind, _ := d.tree["kind"].(string)
		d.kind = apiVersion + " " + kind
		out = append(out, d)
	}
	if len(out) == 0 {
		return nil, errors.New("the file holds no object")
	}
	return out, nil
}

// decode walks the document against the field table, then fills v.
func (d *document) decode(v any, label string, ps *problems) {
	if label != "" {
		name := ""
		if m, ok := d.tree["metadata"].(map[string]any); ok {
			name, _ = m["name"].(string)
		}
		label += name + ": "
	}
	table := strings.TrimPrefix(strings.TrimPrefix(d.kind, "v1 "), "Pod")
	w := &walker{label: label, ps: ps}
	before := len(ps.list)
	w.object(d.tree, reflect.TypeOf(v).Elem(), "", table)
	if err := json.Unmarshal(d.json, v); err != nil && len(ps.list) == before {
		ps.add(strings.TrimSuffix(label, ": "), "%s", plain(err))
	}
}

// plain gives a decoding error without a Secret's bytes in it.
func plain(err error) string {
	var ute *json.UnmarshalTypeError
	if errors.As(err, &ute) {
		return fmt.Sprintf("%s: %s where %s belongs", ute.Field, ute.Value, ute.Type)
	}
	var b64 base64.CorruptInputError
	if errors.As(err, &b64) {
		return "data: not base64 (use stringData for plain text)"
	}
	return err.Error()
}

func setDefaults(p *corev1.Pod) {
	if p.Namespace == "" {
		p.Namespace = "default"
	}
	if p.Spec.RestartPolicy == "" {
		p.Spec.RestartPolicy = corev1.RestartPolicyAlways
	}
	if p.Spec.TerminationGracePeriodSeconds == nil {
		p.Spec.TerminationGracePeriodSeconds = new(int64)
		*p.Spec.TerminationGracePeriodSeconds = 30
	}
	for _, cs := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range cs {
			for j := range cs[i].Ports {
				if cs[i].Ports[j].Protocol == "" {
					cs[i].Ports[j].Protocol = corev1.ProtocolTCP
				}
			}
		}
	}
}

// collect files the objects of the pod's namespace under their names.
func collect(p *Pod, configMaps []*corev1.ConfigMap, secrets []*corev1.Secret, ps *problems) {
	in := func(kind, name, namespace string, taken bool) bool {
		path := kind + " " + name
		if namespace != "" && namespace != p.Namespace {
			ps.add(path, "metadata.namespace: %s is not the pod's namespace %s", namespace, p.Namespace)
			return false
		}
		if name == "" {
			ps.add(kind, "metadata.name: missing")
			return false
		}
		if taken {
			ps.add(path, "given twice")
			return false
		}
		return true
	}
	for _, c := range configMaps {
		if in("ConfigMap", c.Name, c.Namespace, p.ConfigMaps[c.Name] != nil) {
			for k := range c.BinaryData {
				if _, twice := c.Data[k]; twice {
					ps.add("ConfigMap "+c.Name, "data[%s]: also in binaryData", k)
				}
			}
			p.ConfigMaps[c.Name] = c
		}
	}
	for _, s := range secrets {
		if in("Secret", s.Name, s.Namespace, p.Secrets[s.Name] != nil) {
			if s.Data == nil {
				s.Data = map[string][]byte{}
			}
			for k, v := range s.StringData { // stringData wins, as in the API server
				s.Data[k] = []byte(v)
			}
			s.StringData = nil
			p.Secrets[s.Name] = s
		}
	}
	for _, name := range keys(p.ConfigMaps) {
		checkKeys("ConfigMap "+name, append(keys(p.ConfigMaps[name].Data), keys(p.ConfigMaps[name].BinaryData)...), ps)
	}
	for _, name := range keys(p.Secrets) {
		checkKeys("Secret "+name, keys(p.Secrets[name].Data), ps)
	}
}

func checkKeys(object string, names []string, ps *problems) {
	for _, k := range names {
		if !configKeyRE.MatchString(k) || k == "." || strings.HasPrefix(k, "..") || len(k) > 253 {
			ps.add(object, "data[%s]: keys are letters, digits, -, _ and .", k)
		}
	}
}

func keys[K ~string, V any](m map[K]V) []K {
	out := make([]K, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
