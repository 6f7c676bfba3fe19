package seal

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/podpolicy"
	"github.com/cofferproject/coffer/owner/pod"
	"github.com/cofferproject/coffer/owner/spec"
)

// Opened is what a sealed pod's annotation holds.
type Opened struct {
	Document []byte // the plain initdata document
	Parsed   *initdata.Document
	Policy   *podpolicy.Policy
}

// Open reads the annotation of a sealed pod. sealed is false, and the rest nil,
// if the pod has none.
func Open(p *pod.Pod) (o *Opened, sealed bool, err error) {
	text, ok := p.Annotations[initdata.AnnotationKey]
	if !ok {
		return nil, false, nil
	}
	o = new(Opened)
	if o.Document, err = initdata.DecodeAnnotation(text); err != nil {
		return nil, true, fmt.Errorf("opening the sealed pod: %w", err)
	}
	if o.Parsed, err = initdata.Parse(o.Document); err != nil {
		return nil, true, fmt.Errorf("opening the sealed pod: %w", err)
	}
	if o.Policy, err = podpolicy.Parse([]byte(o.Parsed.Data[podpolicy.DataKey])); err != nil {
		return nil, true, fmt.Errorf("opening the sealed pod: %w", err)
	}
	return o, true, nil
}

// Images gives the reference by digest that each image string of the pod was
// sealed with. A tag may have moved since; the seal has not.
func (o *Opened) Images(p *pod.Pod) (map[string]string, error) {
	byName := map[string]string{}
	for _, list := range [][]podpolicy.Container{o.Policy.InitContainers, o.Policy.Containers} {
		for _, c := range list {
			byName[c.Name] = c.Image
		}
	}
	out := map[string]string{}
	for _, c := range p.All() {
		ref := byName[c.Name]
		if ref == "" {
			return nil, &pod.Error{Problems: []pod.Problem{{Path: c.Path, Reason: "the seal has no container " + c.Name + ": the pod was changed since it was sealed; seal it again"}}}
		}
		out[c.Image] = ref
	}
	return out, nil
}

// Options gives the choices that the pod was sealed with, for spec.Build.
func (o *Opened) Options() spec.Options {
	out := spec.Options{Exec: map[string][]podpolicy.Exec{}, HideLogs: map[string]bool{}}
	for _, list := range [][]podpolicy.Container{o.Policy.InitContainers, o.Policy.Containers} {
		for _, c := range list {
			out.Exec[c.Name] = c.Exec
			out.HideLogs[c.Name] = !c.Logs
		}
	}
	return out
}

// Check holds a policy that was built anew against the sealed one, so that a
// pod that was changed after it was sealed fails here, with the place, and not
// in the guest.
func (o *Opened) Check(built *podpolicy.Policy) error {
	a, err := podpolicy.Encode(o.Policy)
	if err != nil {
		return err
	}
	b, err := podpolicy.Encode(built)
	if err != nil {
		return err
	}
	if bytes.Equal(a, b) {
		return nil
	}
	path := "policy"
	if sealed, err := podpolicy.Parse(a); err == nil {
		if now, err := podpolicy.Parse(b); err == nil {
			path = difference("", reflect.ValueOf(*sealed), reflect.ValueOf(*now))
		}
	}
	return &pod.Error{Problems: []pod.Problem{{Path: path, Reason: "differs from the seal: the pod was changed since it was sealed; seal it again"}}}
}

// difference gives the path of the first place where two policies differ.
func difference(path string, a, b reflect.Value) string {
	if a.Kind() != b.Kind() {
		return path
	}
	switch a.Kind() {
	case reflect.Pointer:
		if a.IsNil() || b.IsNil() {
			return path
		}
		return difference(path, a.Elem(), b.Elem())
	case reflect.Struct:
		for i := range a.NumField() {
			if !reflect.DeepEqual(a.Field(i).Interface(), b.Field(i).Interface()) {
				return difference(joinPath(path, jsonName(a.Type().Field(i))), a.Field(i), b.Field(i))
			}
		}
	case reflect.Slice:
		for i := range min(a.Len(), b.Len()) {
			if !reflect.DeepEqual(a.Index(i).Interface(), b.Index(i).Interface()) {
				return difference(fmt.Sprintf("%s[%s]", path, itemName(a.Index(i), i)), a.Index(i), b.Index(i))
			}
		}
	case reflect.Map:
		for _, k := range a.MapKeys() {
			if bv := b.MapIndex(k); !bv.IsValid() || !reflect.DeepEqual(a.MapIndex(k).Interface(), bv.Interface()) {
				return fmt.Sprintf("%s[%v]", path, k)
			}
		}
	}
	return path
}

func itemName(v reflect.Value, i int) string {
	if v.Kind() == reflect.Struct {
		if n := v.FieldByName("Name"); n.IsValid() {
			return n.String()
		}
	}
	return fmt.Sprint(i)
}

func jsonName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}

func joinPath(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
