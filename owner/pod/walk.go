package pod

import (
	"encoding/json"
	"fmt"
	"reflect"
	"sort"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// walker holds a decoded document against the API types (does the field exist?)
// and the field table (what does it mean here?).
type walker struct {
	label string // "ConfigMap x: ", or "" for the pod
	ps    *problems
	free  bool // below a field of state Cluster: only the types count
}

// Types with an encoding of their own: one value to the table.
var leaves = map[reflect.Type]bool{
	reflect.TypeFor[resource.Quantity]():  true,
	reflect.TypeFor[metav1.Time]():        true,
	reflect.TypeFor[metav1.MicroTime]():   true,
	reflect.TypeFor[intstr.IntOrString](): true,
	reflect.TypeFor[metav1.FieldsV1]():    true,
}

// object walks the members of a mapping of type t at path; row is the path's
// form in the table.
func (w *walker) object(tree map[string]any, t reflect.Type, path, row string) {
	fields := jsonFields(t)
	for _, name := range keys(tree) {
		v := tree[name]
		sub, subRow := join(path, name), join(row, name)
		ft, ok := fields[name]
		if !ok {
			w.ps.add(w.label+sub, "unknown field%s", didYouMean(name, fields))
			continue
		}
		if v == nil {
			continue // null is absent, as for the API server
		}
		w.value(v, ft, sub, subRow)
	}
}

func (w *walker) value(v any, t reflect.Type, path, row string) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	f, listed := fieldFor(row)
	switch {
	case w.free:
	case !listed:
		if !harmless(v) {
			w.ps.add(w.label+path, "not supported")
		}
		return
	case f.State == Refused:
		if !harmless(v) {
			w.ps.add(w.label+path, "%s", f.Reason)
		}
		return
	case f.State == Ignored:
		if !harmless(v) {
			w.ps.note(w.label+path, f.Reason)
		}
		return
	case f.State == Cluster:
		if harmless(v) {
			return
		}
		w.ps.cluster = append(w.ps.cluster, Problem{w.label + path, kubelet})
		below := *w
		below.free = true
		w = &below
	}
	switch {
	case leaves[t]:
		if t == reflect.TypeFor[resource.Quantity]() {
			w.quantity(v, path)
		}
	case t.Kind() == reflect.Struct:
		if m, ok := v.(map[string]any); ok {
			w.object(m, t, path, row)
		} else {
			w.ps.add(w.label+path, "%s where a mapping belongs", kindOf(v))
		}
	case t.Kind() == reflect.Slice && t.Elem().Kind() != reflect.Uint8:
		l, ok := v.([]any)
		if !ok {
			w.ps.add(w.label+path, "%s where a list belongs", kindOf(v))
			return
		}
		for i, e := range l {
			if e == nil {
				w.ps.add(fmt.Sprintf("%s%s[%d]", w.label, path, i), "nothing where an item belongs")
				continue
			}
			w.element(e, t.Elem(), fmt.Sprintf("%s[%d]", path, i), row+"[]")
		}
	case t.Kind() == reflect.Map:
		m, ok := v.(map[string]any)
		if !ok {
			w.ps.add(w.label+path, "%s where a mapping belongs", kindOf(v))
			return
		}
		for _, k := range keys(m) {
			if m[k] == nil {
				continue
			}
			w.element(m[k], t.Elem(), fmt.Sprintf("%s[%s]", path, k), row+"[]")
		}
	default:
		w.scalar(v, t, path)
	}
}

// element walks an item of a list or map; the table lists the collection.
func (w *walker) element(v any, t reflect.Type, path, row string) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case leaves[t]:
		if t == reflect.TypeFor[resource.Quantity]() {
			w.quantity(v, path)
		}
	case t.Kind() == reflect.Struct:
		if m, ok := v.(map[string]any); ok {
			w.object(m, t, path, row)
		} else {
			w.ps.add(w.label+path, "%s where a mapping belongs", kindOf(v))
		}
	default:
		w.scalar(v, t, path)
	}
}

func (w *walker) scalar(v any, t reflect.Type, path string) {
	ok, want := true, ""
	switch t.Kind() {
	case reflect.String:
		_, ok = v.(string)
		want = "a string (quote it)"
	case reflect.Bool:
		_, ok = v.(bool)
		want = "true or false"
	case reflect.Int32, reflect.Int64, reflect.Int, reflect.Uint32:
		var f float64
		f, ok = v.(float64)
		ok = ok && f == float64(int64(f)) && (t.Kind() != reflect.Int32 || f == float64(int32(f)))
		want = "an integer"
	case reflect.Slice:
		_, ok = v.(string)
		want = "base64 text"
	}
	if !ok {
		w.ps.add(w.label+path, "%s where %s belongs", kindOf(v), want)
	}
}

func (w *walker) quantity(v any, path string) {
	s, ok := v.(string)
	if !ok {
		b, err := json.Marshal(v)
		_, isNumber := v.(float64)
		if err != nil || !isNumber {
			w.ps.add(w.label+path, "%s where a quantity belongs", kindOf(v))
			return
		}
		s = string(b)
	}
	if _, err := resource.ParseQuantity(s); err != nil {
		w.ps.add(w.label+path, "%q is no quantity (such as 100Mi or 500m)", s)
	}
}

// harmless reports whether v is what an absent field means: exported manifests
// spell out hostNetwork: false.
func harmless(v any) bool {
	switch v := v.(type) {
	case bool:
		return !v
	case string:
		return v == ""
	case float64:
		return v == 0
	case []any:
		return len(v) == 0
	}
	return false
}

func kindOf(v any) string {
	switch v.(type) {
	case bool:
		return "true or false"
	case string:
		return "a string"
	case float64:
		return "a number"
	case []any:
		return "a list"
	case map[string]any:
		return "a mapping"
	}
	return "nothing"
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// jsonFields gives the JSON members of a struct type, inlined ones included.
func jsonFields(t reflect.Type) map[string]reflect.Type {
	out := map[string]reflect.Type{}
	for f := range t.Fields() {
		name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-":
		case f.Anonymous && (name == "" || strings.Contains(opts, "inline")):
			for k, v := range jsonFields(f.Type) {
				out[k] = v
			}
		case name != "":
			out[name] = f.Type
		}
	}
	return out
}

// didYouMean proposes the known field nearest to name.
func didYouMean(name string, fields map[string]reflect.Type) string {
	type cand struct {
		name string
		d    int
	}
	var cs []cand
	for _, f := range keys(fields) {
		d := distance(strings.ToLower(name), strings.ToLower(f))
		if d <= 1+len(name)/4 {
			cs = append(cs, cand{f, d})
		}
	}
	if len(cs) == 0 {
		return ""
	}
	sort.SliceStable(cs, func(i, j int) bool { return cs[i].d < cs[j].d })
	return fmt.Sprintf(", did you mean %s?", cs[0].name)
}

// distance is the number of edits between a and b.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diag := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := diag
			if a[i-1] != b[j-1] {
				cost++
			}
			diag = row[j]
			row[j] = min(cost, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}
