package pod

import (
	"fmt"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// FileContent is one file of a volume.
type FileContent struct {
	Data   []byte
	Mode   uint32 // permission bits
	Secret bool
}

// VolumeFiles gives the files of a configMap, secret, projected or downwardAPI
// volume by path. ok is false for an emptyDir. A pod from Parse gives no error.
func (p *Pod) VolumeFiles(v *corev1.Volume) (files map[string]FileContent, ok bool, err error) {
	ps := new(problems)
	files, ok = p.volumeFiles(v, "spec.volumes["+v.Name+"]", ps)
	return files, ok, ps.err()
}

func (p *Pod) volumeFiles(v *corev1.Volume, at string, ps *problems) (map[string]FileContent, bool) {
	files := map[string]FileContent{}
	switch {
	case v.ConfigMap != nil:
		p.configMapFiles(v.ConfigMap.Name, v.ConfigMap.Items, v.ConfigMap.Optional, mode(v.ConfigMap.DefaultMode, at+".configMap", ps), at+".configMap", files, ps)
	case v.Secret != nil:
		p.secretFiles(v.Secret.SecretName, v.Secret.Items, v.Secret.Optional, mode(v.Secret.DefaultMode, at+".secret", ps), at+".secret", "secretName", files, ps)
	case v.DownwardAPI != nil:
		p.downwardFiles(v.DownwardAPI.Items, mode(v.DownwardAPI.DefaultMode, at+".downwardAPI", ps), at+".downwardAPI", files, ps)
	case v.Projected != nil:
		m := mode(v.Projected.DefaultMode, at+".projected", ps)
		for i, s := range v.Projected.Sources {
			sub := fmt.Sprintf("%s.projected.sources[%d]", at, i)
			n := 0
			if s.ConfigMap != nil {
				n++
				p.configMapFiles(s.ConfigMap.Name, s.ConfigMap.Items, s.ConfigMap.Optional, m, sub+".configMap", files, ps)
			}
			if s.Secret != nil {
				n++
				p.secretFiles(s.Secret.Name, s.Secret.Items, s.Secret.Optional, m, sub+".secret", "name", files, ps)
			}
			if s.DownwardAPI != nil {
				n++
				p.downwardFiles(s.DownwardAPI.Items, m, sub+".downwardAPI", files, ps)
			}
			if n != 1 {
				ps.add(sub, "exactly one source belongs here")
			}
		}
	default:
		return nil, false
	}
	for name := range files {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if _, clash := files[dir]; clash {
				ps.add(at, "%s is file and directory at once", dir)
			}
		}
	}
	return files, true
}

func mode(m *int32, at string, ps *problems) uint32 {
	if m == nil {
		return 0o644
	}
	if *m < 0 || *m > 0o777 {
		ps.add(at+".defaultMode", "%d is not between 0 and 0777", *m)
	}
	return uint32(*m) & 0o777
}

func (p *Pod) configMapFiles(name string, items []corev1.KeyToPath, optional *bool, mode uint32, at string, files map[string]FileContent, ps *problems) {
	cm := p.ConfigMaps[name]
	if cm == nil {
		missing(ps, at, "ConfigMap", name, optional)
		return
	}
	data := map[string][]byte{}
	for k, v := range cm.Data {
		data[k] = []byte(v)
	}
	for k, v := range cm.BinaryData {
		data[k] = v
	}
	pick(data, "ConfigMap "+name, false, items, optional, mode, at, files, ps)
}

func (p *Pod) secretFiles(name string, items []corev1.KeyToPath, optional *bool, mode uint32, at, nameField string, files map[string]FileContent, ps *problems) {
	s := p.Secrets[name]
	if s == nil {
		if optional == nil || !*optional {
			ps.add(at+"."+nameField, "Secret %s is not in the file", name)
		} else {
			missing(ps, at, "Secret", name, optional)
		}
		return
	}
	pick(s.Data, "Secret "+name, true, items, optional, mode, at, files, ps)
}

// pick maps an object's keys to files: all keys, or the items.
func pick(data map[string][]byte, object string, secret bool, items []corev1.KeyToPath, optional *bool, mode uint32, at string, files map[string]FileContent, ps *problems) {
	if len(items) == 0 {
		for k, v := range data {
			files[k] = FileContent{v, mode, secret}
		}
		return
	}
	for i, it := range items {
		sub := fmt.Sprintf("%s.items[%d]", at, i)
		v, ok := data[it.Key]
		if !ok {
			missingKey(ps, sub, object, it.Key, optional)
			continue
		}
		if !filePath(it.Path) {
			ps.add(sub+".path", "%q is not a path below the volume's root", it.Path)
			continue
		}
		files[path.Clean(it.Path)] = FileContent{v, itemMode(it.Mode, mode, sub, ps), secret}
	}
}

func itemMode(m *int32, def uint32, at string, ps *problems) uint32 {
	if m == nil {
		return def
	}
	if *m < 0 || *m > 0o777 {
		ps.add(at+".mode", "%d is not between 0 and 0777", *m)
	}
	return uint32(*m) & 0o777
}

func (p *Pod) downwardFiles(items []corev1.DownwardAPIVolumeFile, mode uint32, at string, files map[string]FileContent, ps *problems) {
	for i, it := range items {
		sub := fmt.Sprintf("%s.items[%d]", at, i)
		if !filePath(it.Path) {
			ps.add(sub+".path", "%q is not a path below the volume's root", it.Path)
			continue
		}
		var value string
		var ok bool
		switch {
		case (it.FieldRef == nil) == (it.ResourceFieldRef == nil):
			ps.add(sub, "exactly one of fieldRef and resourceFieldRef belongs here")
		case it.FieldRef != nil:
			value, ok = p.fieldRef(it.FieldRef, sub+".fieldRef", true, ps)
		case it.ResourceFieldRef.ContainerName == "":
			ps.add(sub+".resourceFieldRef.containerName", "missing")
		default:
			value, ok = p.resourceRef(Container{}, it.ResourceFieldRef, sub+".resourceFieldRef", ps)
		}
		if ok {
			files[path.Clean(it.Path)] = FileContent{[]byte(value), itemMode(it.Mode, mode, sub, ps), false}
		}
	}
}

// filePath reports whether p may be a file's path in a volume.
func filePath(p string) bool {
	if p == "" || strings.HasPrefix(p, "/") || strings.HasPrefix(p, "..") || strings.ContainsRune(p, 0) || path.Clean(p) == "." {
		return false
	}
	return !slices.Contains(strings.Split(p, "/"), "..")
}
