package initdata

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
)

func doc(data map[string]string) *Document {
	return &Document{Version: Version, Algorithm: SHA256, Data: data}
}

func TestBuildParses(t *testing.T) {
	data := map[string]string{
		"plain": "a = 1\nb = \"two\"\n", "empty": "", "quotes": "it's '''three''' and \"\"\"", "ends with quote'": "x'", "newline first": "\nx",
		"control": "a\x01\r\n\x7f\t\\", "unicode": "schlüssel 🔑", "dots.and \"quotes\"": "v",
	}
	b, err := Build(doc(data))
	if err != nil {
		t.Fatal(err)
	}
	d, err := Parse(b)
	if err != nil {
		t.Fatalf("%v in\n%s", err, b)
	}
	if !maps.Equal(d.Data, data) {
		t.Errorf("got %q, want %q", d.Data, data)
	}
	again, err := Build(d)
	if err != nil || !bytes.Equal(b, again) {
		t.Errorf("not the same bytes again: %v", err)
	}
}

// A document as the published tools' users write it.
func TestPublishedForm(t *testing.T) {
	d, err := Parse([]byte(`# comment with 'quotes" and [brackets
algorithm = "sha384"
version = "0.1.0"

[data]
"aa.toml" = '''
[token_configs]
[token_configs.kbs]
url = 'https://kbs.example:8080/'
cert = """
-----BEGIN CERTIFICATE-----
x
-----END CERTIFICATE-----
"""
'''
"cdh.toml" = '''
socket = 'unix:///run/confidential-containers/cdh.sock'
credentials = []
[kbc]
name = 'cc_kbc'
url = 'https://kbs.example:8080'
kbs_cert = """
-----BEGIN CERTIFICATE-----
x
-----END CERTIFICATE-----
"""
[image]
max_concurrent_layer_downloads_per_image = 3
[image.registry_config]
unqualified-search-registries = ["docker.io"]
[[image.registry_config.registry]]
location = "docker.io"
[[image.registry_config.registry.mirror]]
location = "mirror.example:5000"
insecure = true
'''
"policy.rego" = "package agent_policy"
`))
	if err != nil {
		t.Fatal(err)
	}
	url, cert, ok, err := d.KBS()
	if err != nil || !ok || url != "https://kbs.example:8080" || !strings.Contains(cert, "BEGIN CERTIFICATE") {
		t.Errorf("%q %q %v %v", url, cert, ok, err)
	}
	c, err := d.CDH()
	if err != nil || c.Image.RegistryConfig.Registry[0].Mirror[0].Location != "mirror.example:5000" {
		t.Errorf("%+v, %v", c, err)
	}
	if d.CheckAlgorithm("tdx") != nil || d.CheckAlgorithm("tpm") == nil || d.CheckAlgorithm("sample") == nil {
		t.Error("algorithms of TEEs are wrong")
	}
	if _, _, _, err := doc(map[string]string{KeyAA: "[token_configs.kbs]\nurl = 'https://a'", KeyCDH: "[kbc]\nname='cc_kbc'\nurl = 'https://b'"}).KBS(); err == nil {
		t.Error("two trustees in one document")
	}
}

func TestEncodeConfig(t *testing.T) {
	in := &CDHConfig{KBC: CDHKBC{Name: "cc_kbc", URL: "https://x", KBSCert: "-----BEGIN\nx\n"}}
	in.Image.RegistryConfig = &RegistryConfig{Registry: []Registry{{Location: "docker.io", Mirror: []Mirror{{Location: "10.0.2.2:5000", Insecure: true}}}}}
	in.Image.ExtraRootCertificates = []string{"pem\ntext\n"}
	s, err := EncodeConfig(in)
	if err != nil {
		t.Fatal(err)
	}
	out, err := doc(map[string]string{KeyCDH: s}).CDH()
	if err != nil {
		t.Fatalf("%v in\n%s", err, s)
	}
	if out.KBC != in.KBC || out.Image.RegistryConfig.Registry[0].Mirror[0] != in.Image.RegistryConfig.Registry[0].Mirror[0] || out.Image.ExtraRootCertificates[0] != "pem\ntext\n" {
		t.Errorf("got %+v", out)
	}
}

func TestRefused(t *testing.T) {
	const head = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n"
	for name, s := range map[string]string{
		"empty": "", "version": "version = \"0.2.0\"\nalgorithm = \"sha256\"\n[data]\n", "algorithm": "version = \"0.1.0\"\nalgorithm = \"md5\"\n[data]\n",
		"no algorithm": "version = \"0.1.0\"\n[data]\n", "unknown member": head + "x = 1\n", "other case": head + "Version = \"0.1.0\"\n", "value no string": head + "[data]\nx = 1\n",
		"table in data": head + "[data.x]\ny = \"1\"\n", "twice": head + "[data]\nx = \"1\"\nx = \"2\"\n", "not UTF-8": head + "[data]\nx = \"\xff\"\n",
		"deep": head + "[data]\nx = " + strings.Repeat("[", 1<<20), "deep key": head + strings.Repeat("a.", 1<<20) + "a = 1", "unended": head + "[data]\nx = '''", "large": head + strings.Repeat("#\n", MaxPlain),
		"long name": head + "[data]\n" + strings.Repeat("k", 300) + " = \"\"\n",
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Parse([]byte(s)); err == nil {
				t.Error("accepted")
			}
		})
	}
	for name, s := range map[string]string{"unknown": "[token_configs.kbs]\nurl='https://x'\nurls='y'\n", "deep": "x = " + strings.Repeat("{a=", 1000)} {
		if _, err := doc(map[string]string{KeyAA: s}).AA(); err == nil {
			t.Errorf("aa.toml, %s: accepted", name)
		}
	}
	if _, err := doc(map[string]string{KeyCDH: "skip_sealed_secret_verification = true\n[kbc]\nname=''\n"}).CDH(); err == nil {
		t.Error("sealed secrets without verification accepted")
	}
}

func TestDevice(t *testing.T) {
	plain, err := Build(doc(map[string]string{"x": strings.Repeat("y", 1000)}))
	if err != nil {
		t.Fatal(err)
	}
	img, err := EncodeDevice(plain)
	if err != nil {
		t.Fatal(err)
	}
	if len(img)%512 != 0 || string(img[:8]) != Magic {
		t.Errorf("image of %d bytes", len(img))
	}
	got, err := DecodeDevice(bytes.NewReader(img))
	if err != nil || !bytes.Equal(got, plain) {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := DecodeDevice(bytes.NewReader(make([]byte, 512))); !errors.Is(err, ErrNoMagic) {
		t.Errorf("a disk of zeros: %v", err)
	}
	if _, err := DecodeDevice(bytes.NewReader(img[:30])); err == nil || errors.Is(err, ErrNoMagic) {
		t.Errorf("cut: %v", err)
	}
	huge := bytes.Clone(img)
	huge[15] = 1
	if _, err := DecodeDevice(bytes.NewReader(huge)); err == nil {
		t.Error("a length of 2^56 was accepted")
	}
	bomb, err := compress(make([]byte, MaxPlain))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := decompress(append(bomb, bomb...)); err == nil {
		t.Error("two gzip members were accepted")
	}
	s, err := EncodeAnnotation(plain)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := DecodeAnnotation(s); err != nil || !bytes.Equal(got, plain) {
		t.Errorf("annotation: %v", err)
	}
}

func TestBindingAndIdentities(t *testing.T) {
	aa := func(text string) (*AAConfig, error) { return doc(map[string]string{KeyAA: text}).AA() }
	text, err := EncodeConfig(AAConfig{BindChannel: true, Identities: []string{"db", "web"}})
	if err != nil {
		t.Fatal(err)
	}
	c, err := aa(text)
	if err != nil || !c.BindChannel || !slices.Equal(c.Identities, []string{"db", "web"}) {
		t.Errorf("%+v, %v, from %s", c, err, text)
	}
	if c, err := aa(""); err != nil || c.BindChannel || len(c.Identities) != 0 {
		t.Errorf("by default: %+v, %v", c, err)
	}
	for name, text := range map[string]string{
		"no bool": "bind_channel = 'yes'", "another case": "Bind_Channel = true", "two cases": "bind_channel = true\nBIND_CHANNEL = false",
		"no list": "identities = 'web'", "identities in another case": "Identities = ['web']", "twice": "identities = ['web', 'web']", "no name": "identities = ['']",
		"a path": "identities = ['../x']", "capitals": "identities = ['Web']", "a dash": "identities = ['-web']", "too long": "identities = ['" + strings.Repeat("a", 64) + "']",
		"too many": "identities = ['a'" + strings.Repeat(", 'a'", 16) + "]",
	} {
		if c, err := aa(text); err == nil {
			t.Errorf("%s: %+v", name, c)
		}
	}
}

func TestDigests(t *testing.T) {
	sum := sha256.Sum256([]byte("coffer: no initdata"))
	if NoneDigest() != sum {
		t.Error("the fixed digest changed")
	}
	if b := Fit([]byte{1, 2}, 4); !bytes.Equal(b, []byte{1, 2, 0, 0}) || !bytes.Equal(Fit(b, 1), []byte{1}) {
		t.Error("fit")
	}
}

func TestAdditionalDevices(t *testing.T) {
	list := func(aa string) ([]string, error) {
		return (&Document{Data: map[string]string{KeyAA: aa}}).AdditionalDevices()
	}
	none := new(Document)
	if l, err := none.AdditionalDevices(); l != nil || err != nil {
		t.Errorf("no aa.toml: %v, %v", l, err)
	}
	text, err := EncodeConfig(AAConfig{AdditionalDevices: []string{"nvidia", "hygondcu"}})
	if err != nil {
		t.Fatal(err)
	}
	// What other agents have in theirs does not get in the way.
	for _, aa := range []string{text, "future_member = 1\nadditional_devices = ['nvidia', 'hygondcu']\n[x]\ny = 2\n"} {
		if l, err := list(aa); err != nil || !slices.Equal(l, []string{"hygondcu", "nvidia"}) {
			t.Errorf("%q: %v, %v", aa, l, err)
		}
	}
	if l, err := list("[token_configs.kbs]\nurl = 'https://x'\n"); len(l) != 0 || err != nil {
		t.Errorf("none: %v, %v", l, err)
	}
	for name, aa := range map[string]string{
		"no list": "additional_devices = 'nvidia'", "a number": "additional_devices = [1]", "twice": "additional_devices = ['nvidia', 'nvidia']",
		"no name": "additional_devices = ['']", "a path": "additional_devices = ['../x']", "too many": "additional_devices = ['a'" + strings.Repeat(", 'a'", 16) + "]",
		"not TOML": "additional_devices = [", "another case": "Additional_Devices = ['nvidia']", "two cases": "additional_devices = []\nADDITIONAL_DEVICES = ['nvidia']",
	} {
		if l, err := list(aa); err == nil {
			t.Errorf("%s: %v", name, l)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, data := range []map[string]string{{}, {"a": "b\n'x"}, {KeyAA: "additional_devices = ['nvidia']\n"}, {KeyAA: "[token_configs.kbs]\nurl = 'https://x'\ncert = '''x'''\n"}, {KeyCDH: "[kbc]\nname = 'cc_kbc'\n[[image.registry_config.registry]]\nlocation = 'x'\n"}} {
		b, err := Build(doc(data))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := Parse(b)
		if err != nil {
			return
		}
		_, _, _, _ = d.KBS()
		if l, err := d.AdditionalDevices(); err == nil && CheckDevices(l) != nil {
			t.Errorf("devices %q", l)
		}
		again, err := Build(d)
		if err != nil {
			t.Fatal(err)
		}
		e, err := Parse(again)
		if err != nil || !maps.Equal(d.Data, e.Data) {
			t.Errorf("%q became %q: %v", d.Data, e, err)
		}
	})
}

// TestEncodeDevice reads the format with nothing of this package.
func TestEncodeDevice(t *testing.T) {
	for _, plain := range [][]byte{nil, []byte("version = \"0.1.0\"\n"), bytes.Repeat([]byte("x"), MaxPlain)} {
		d, err := EncodeDevice(plain)
		if err != nil {
			t.Fatal(err)
		}
		if len(d)%512 != 0 || string(d[:8]) != "initdata" {
			t.Fatalf("%d bytes, %q", len(d), d[:8])
		}
		n := binary.LittleEndian.Uint64(d[8:])
		z, err := gzip.NewReader(bytes.NewReader(d[16 : 16+n]))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(z)
		if err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
		if rest := bytes.Trim(d[16+n:], "\x00"); len(rest) != 0 {
			t.Errorf("padding %q", rest)
		}
	}
	if _, err := EncodeDevice(make([]byte, MaxPlain+1)); err == nil {
		t.Error("too long initdata was accepted")
	}
}

func FuzzDecodeDevice(f *testing.F) {
	img, err := EncodeDevice([]byte("x = 1"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(img)
	f.Add([]byte(Magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		plain, err := DecodeDevice(bytes.NewReader(b))
		if err == nil && len(plain) > MaxPlain {
			t.Errorf("%d bytes", len(plain))
		}
	})
}
