package podpolicy

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestEncodeParseRoundTrip(t *testing.T) {
	b, err := Encode(testPolicy())
	if err != nil {
		t.Fatal(err)
	}
	p, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Encode(p)
	if err != nil || !bytes.Equal(b, again) {
		t.Fatalf("%v: the same policy must give the same bytes:\n%s\n%s", err, b, again)
	}
	if !reflect.DeepEqual(p, testPolicy()) {
		t.Fatalf("%+v", p)
	}
	if bytes.Contains(b, []byte("null")) || bytes.Contains(b, []byte("hunter2")) {
		t.Fatalf("%s", b)
	}
}

// TestParseRefuses changes a good document in one place each.
func TestParseRefuses(t *testing.T) {
	good, _ := Encode(testPolicy())
	for name, c := range map[string]struct{ old, new, want string }{
		"unknown member":       {`"version":1`, `"version":1,"extra":1`, "extra: unknown member"},
		"other case":           {`"version":1`, `"Version":1`, "Version: unknown member"},
		"twice":                {`"version":1`, `"version":1,"version":1`, "version: member twice"},
		"twice in a map":       {`"a.conf":`, `"d/b.conf":{},"a.conf":`, "member twice"},
		"null":                 {`"hostname":"web"`, `"hostname":null`, "hostname: null"},
		"unknown deep":         {`"cwd":"/"`, `"cwd":"/","cwt":"/"`, "init_containers[0].cwt: unknown member"},
		"object for a list":    {`"args":["/bin/app","-v"]`, `"args":{"0":"/bin/app"}`, "args: an object"},
		"list for a string":    {`"cwd":"/"`, `"cwd":["/"]`, "cwd: an array"},
		"wrong type":           {`"version":1`, `"version":"1"`, "version"},
		"version":              {`"version":1`, `"version":2`, "version: 2 is not 1"},
		"negative":             {`"shm_bytes":67108864`, `"shm_bytes":-1`, "sandbox.shm_bytes"},
		"float":                {`"shm_bytes":67108864`, `"shm_bytes":1.5`, "shm_bytes"},
		"resolv_conf":          {`"resolv_conf":"host"`, `"resolv_conf":"any"`, "sandbox.resolv_conf"},
		"sysctl":               {`net.ipv4.ip_unprivileged_port_start`, `kernel.core_pattern`, "sandbox.sysctls"},
		"disk's key":           {`"key":"kbs:///default/volumes/data"`, `"key":"/etc/passwd"`, "volumes[data].key"},
		"block without a key":  {`"size_limit":33554432`, `"size_limit":33554432,"block":true`, "volumes[spool].block"},
		"block of an empty":    {`{"name":"fast","kind":"empty-dir"`, `{"name":"fast","kind":"empty-dir","block":true`, "volumes[fast].key, sealing, new, block"},
		"block of a group":     {`"block":true}`, `"gid":7,"block":true}`, "volumes[raw].gid"},
		"block, mounted":       {`{"volume":"spool","destination":"/spool"}`, `{"volume":"raw","destination":"/spool"}`, "mounts[4].volume: raw is a block volume"},
		"device of files":      {`{"volume":"raw","path":"/dev/xvda"}`, `{"volume":"data","path":"/dev/xvda"}`, "devices[0].volume: data is no block volume"},
		"device of nothing":    {`{"volume":"raw","path":"/dev/xvda"}`, `{"volume":"none","path":"/dev/xvda"}`, "devices[0].volume: none is no volume"},
		"device of an admin":   {`"capabilities":["CAP_CHOWN","CAP_KILL"]`, `"capabilities":["CAP_SYS_ADMIN"]`, "devices[1].read_only: the container has CAP_SYS_ADMIN"},
		"device twice":         {`{"volume":"ref","path":"/srv/ref"`, `{"volume":"raw","path":"/srv/ref"`, "devices[1].volume: raw twice"},
		"device over another":  {`{"volume":"ref","path":"/srv/ref"`, `{"volume":"ref","path":"/dev/xvda/x"`, "devices[1].path: /dev/xvda/x is where"},
		"device over /dev":     {`{"volume":"raw","path":"/dev/xvda"}`, `{"volume":"raw","path":"/dev"}`, "devices[0].path: /dev may not"},
		"device in a volume":   {`{"volume":"raw","path":"/dev/xvda"}`, `{"volume":"raw","path":"/spool/x"}`, "devices[0].path: /spool/x is where the container has /spool"},
		"device over a volume": {`{"volume":"raw","path":"/dev/xvda"}`, `{"volume":"raw","path":"/var"}`, "devices[0].path: /var is where the container has /var/db"},
		"device, not clean":    {`{"volume":"raw","path":"/dev/xvda"}`, `{"volume":"raw","path":"/dev/../xvda"}`, "devices[0].path"},
		"disk that is memory":  {`"kind":"disk","size_limit":1073741824`, `"kind":"disk","memory":true,"size_limit":1073741824`, "volumes[data].files, memory"},
		"disk of no size":      {`{"name":"spool","kind":"disk","size_limit":33554432`, `{"name":"spool","kind":"disk"`, "volumes[spool].size_limit"},
		"new without a key":    {`"size_limit":33554432`, `"size_limit":33554432,"new":true`, "volumes[spool].new"},
		"key of an empty-dir":  {`{"name":"fast","kind":"empty-dir"`, `{"name":"fast","kind":"empty-dir","key":"kbs:///a/b/c"`, "volumes[fast].key, sealing"},
		"unknown sealing":      {`"key":"kbs:///default/volumes/data"`, `"key":"kbs:///default/volumes/data","sealing":"cpu"`, "volumes[data].sealing"},
		"signer's without key": {`"size_limit":33554432`, `"size_limit":33554432,"sealing":"mrsigner"`, "volumes[spool].sealing"},
		"volume kind":          {`"kind":"empty-dir"`, `"kind":"host-path"`, "volumes[scratch].kind"},
		"dot dot":              {`"a.conf":`, `"../a.conf":`, "volumes[config].files[../a.conf]"},
		"absolute":             {`"a.conf":`, `"/a.conf":`, "volumes[config].files[/a.conf]"},
		"file and directory":   {`"a.conf":`, `"d":`, "file and directory at once"},
		"hash":                 {sha("level=very"), "AA", "sha256"},
		"mode":                 {`"mode":420`, `"mode":2468`, "mode"},
		"image without digest": {`registry.example/app@` + digestB, `registry.example/app:1`, "init_containers[prepare].image"},
		"image's digest":       {`registry.example/app@` + digestB, `registry.example/app@` + digestA, "init_containers[prepare].image"},
		"no args":              {`"args":["/bin/app","-v"]`, `"args":[]`, "init_containers[prepare].args"},
		"env twice":            {`{"name":"PATH","value":"/bin"}`, `{"name":"PATH","value":"/bin"},{"name":"PATH","value":"/bin"}`, "env[PATH]: twice"},
		"env both":             {`{"name":"PATH","value":"/bin"}`, `{"name":"PATH","value":"/bin","sha256":"` + sha("") + `"}`, "exactly one"},
		"loader hashed":        {`{"name":"PATH","value":"/bin"}`, `{"name":"LD_PRELOAD","sha256":"` + sha("") + `"}`, "env[LD_PRELOAD]"},
		"relative cwd":         {`"cwd":"/"`, `"cwd":"."`, "cwd"},
		"root and non_root":    {`"uid":1000`, `"uid":0`, "user"},
		"uid that is no uid":   {`"uid":1000`, `"uid":4294967295`, "user"},
		"capability":           {`"CAP_KILL"`, `"CAP_ROOT"`, "capabilities[1]"},
		"capability order":     {`"CAP_CHOWN","CAP_KILL"`, `"CAP_KILL","CAP_CHOWN"`, "capabilities"},
		"seccomp":              {`"seccomp":"runtime-default"`, `"seccomp":"localhost/x"`, "seccomp"},
		"mount's volume":       {`{"volume":"scratch","destination"`, `{"volume":"none","destination"`, "mounts[2].volume"},
		"mount over /proc":     {`"destination":"/scratch"`, `"destination":"/proc/1"`, "mounts[2].destination"},
		"mount twice":          {`"destination":"/scratch"`, `"destination":"/etc/config"`, "mounts[2].destination"},
		"writable files":       {`"destination":"/etc/config","read_only":true`, `"destination":"/etc/config"`, "mounts[0].read_only"},
		"sub path":             {`"sub_path":"a.conf"`, `"sub_path":"../a.conf"`, "sub_path"},
		"sub path not there":   {`"sub_path":"a.conf"`, `"sub_path":"c.conf"`, "sub_path"},
		"quota and period":     {`"cpu_period":100000,`, ``, "resources"},
		"restart":              {`"restart":"Never"`, `"restart":"Sometimes"`, "restart"},
		"exec any and args":    {`{"args":["date"]}`, `{"args":["date"],"any":true}`, "exec[0]"},
		"exec nothing":         {`{"args":["date"]}`, `{}`, "exec[0]"},
		"same name":            {`"name":"check"`, `"name":"app"`, "name: app twice"},
		"name":                 {`"name":"check"`, `"name":"Check"`, "DNS label"},
		"pod":                  {`"pod":"default/web"`, `"pod":"web"`, "pod"},
	} {
		t.Run(name, func(t *testing.T) {
			doc := strings.Replace(string(good), c.old, c.new, 1)
			if doc == string(good) {
				t.Fatalf("%s is not in the document", c.old)
			}
			_, err := Parse([]byte(doc))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
		})
	}
	for _, doc := range []string{"", "{", "[]", "null", "1", string(good) + "x", string(good) + "{}", strings.Repeat("[", 100000), `{"volumes":` + strings.Repeat(`[`, 50), strings.Repeat(" ", MaxSize+1)} {
		if _, err := Parse([]byte(doc)); err == nil {
			t.Errorf("%.40q was accepted", doc)
		}
	}
}

func FuzzParse(f *testing.F) {
	good, _ := Encode(testPolicy())
	f.Add(good)
	f.Add([]byte(`{"version":1,"pod":"a/b","hostname":"b","sandbox":{"resolv_conf":"none","shm_bytes":0},"containers":[]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := Parse(b)
		if err != nil {
			return
		}
		enc, err := Encode(p)
		if err != nil {
			t.Fatalf("a parsed policy does not encode: %v", err)
		}
		q, err := Parse(enc)
		if err != nil {
			t.Fatalf("an encoded policy does not parse: %v", err)
		}
		enc2, err := Encode(q)
		if err != nil || !bytes.Equal(enc, enc2) || !json.Valid(enc) {
			t.Fatalf("the encoding is not stable: %v", err)
		}
		NewEnforcer(p)
	})
}

// TestVectors reads the documents of SPEC.md section 7.
func TestVectors(t *testing.T) {
	if os.Getenv("UPDATE_GOLDEN") == "1" {
		writeVectors(t)
	}
	for _, class := range []string{"good", "bad"} {
		files, err := filepath.Glob(filepath.Join("testdata", class, "*.json"))
		if err != nil || len(files) == 0 {
			t.Fatalf("no vectors in %s: %v", class, err)
		}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			p, err := Parse(b)
			if class == "bad" {
				if err == nil {
					t.Errorf("%s was accepted", f)
				}
				continue
			}
			if err != nil {
				t.Errorf("%s: %v", f, err)
				continue
			}
			if again, err := Encode(p); err != nil || !bytes.Equal(b, again) {
				t.Errorf("%s: %v: encodes to other bytes", f, err)
			}
		}
	}
}

func writeVectors(t *testing.T) {
	full, err := Encode(testPolicy())
	if err != nil {
		t.Fatal(err)
	}
	small, err := Encode(&Policy{Version: 1, Pod: "default/small", Hostname: "small", Sandbox: Sandbox{ResolvConf: "none"}, Containers: []Container{{
		Name: "app", Image: "127.0.0.1:5000/app@" + digestA, ManifestDigest: digestA, Args: []string{"/app"}, Cwd: "/", Seccomp: "unconfined", Restart: "Never",
	}}})
	if err != nil {
		t.Fatal(err)
	}
	for name, doc := range map[string]string{
		"good/full": string(full), "good/small": string(small),
		"bad/unknown-member":  strings.Replace(string(small), `"pod"`, `"extra":0,"pod"`, 1),
		"bad/member-twice":    strings.Replace(string(small), `"pod"`, `"version":1,"pod"`, 1),
		"bad/other-case":      strings.Replace(string(small), `"pod"`, `"Pod"`, 1),
		"bad/null":            strings.Replace(string(small), `"hostname":"small"`, `"hostname":null`, 1),
		"bad/trailing":        string(small) + "{}",
		"bad/image-by-tag":    strings.Replace(string(small), "@"+digestA, ":latest", 1),
		"bad/no-containers":   `{"version":1,"pod":"default/small","hostname":"small","sandbox":{"resolv_conf":"none","shm_bytes":0},"containers":[]}`,
		"bad/file-leaves":     strings.Replace(string(full), `"a.conf"`, `"../a.conf"`, 1),
		"bad/loader-hashed":   strings.Replace(string(full), `{"name":"PATH","value":"/bin"}`, `{"name":"PATH","sha256":"`+sha("/bin")+`"}`, 1),
		"bad/block-mounted":   strings.Replace(string(full), `{"volume":"spool","destination":"/spool"}`, `{"volume":"raw","destination":"/spool"}`, 1),
		"bad/block-keyless":   strings.Replace(string(full), `"key":"kbs:///default/volumes/raw","block"`, `"size_limit":33554432,"block"`, 1),
		"bad/device-of-files": strings.Replace(string(full), `{"volume":"raw","path"`, `{"volume":"data","path"`, 1),
		"bad/device-in-mount": strings.Replace(string(full), `"path":"/dev/xvda"`, `"path":"/spool/xvda"`, 1),
		"bad/mount-over-proc": strings.Replace(string(full), `"/scratch"`, `"/proc/sys"`, 1),
	} {
		if err := os.WriteFile(filepath.Join("testdata", name+".json"), []byte(doc), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
