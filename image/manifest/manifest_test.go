package manifest

import (
	"fmt"
	"strings"
	"testing"
)

const (
	shaA = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	shaB = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

func desc(mt, d, more string) string {
	return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":3%s}`, mt, d, more)
}

func image(layers ...string) string {
	return fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":%s,"layers":[%s]}`,
		TypeOCIManifest, desc(TypeOCIConfig, shaA, ""), strings.Join(layers, ","))
}

func gz(d string) string { return desc("application/vnd.oci.image.layer.v1.tar+gzip", d, "") }

func TestParseManifest(t *testing.T) {
	d, err := Parse([]byte(image(gz(shaA), gz(shaB), gz(shaA))), TypeOCIManifest+"; charset=utf-8")
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Manifest.Layers) != 3 || d.Manifest.Layers[2].Digest != shaA {
		t.Fatalf("layers %+v", d.Manifest.Layers)
	}
	for name, c := range map[string]struct{ doc, ctype, want string }{
		"no layers":         {image(), "", "lists 0 layers"},
		"schema 1":          {`{"schemaVersion":1,"fsLayers":[{}]}`, "", "schema 1"},
		"index and layers":  {`{"schemaVersion":2,"manifests":[` + desc(TypeOCIManifest, shaA, "") + `],"layers":[` + gz(shaA) + `]}`, "", "could be read"},
		"manifest and list": {strings.Replace(image(gz(shaA)), `"layers"`, `"manifests":[],"layers"`, 1), "", "could be read"},
		"type confusion":    {image(gz(shaA)), TypeOCIIndex, "registry says"},
		"artifact":          {strings.Replace(image(gz(shaA)), TypeOCIConfig, "application/vnd.x", 1), "", "artifact"},
		"layer type":        {image(desc("text/plain", shaA, "")), "", "layer 0"},
		"bad digest":        {image(gz("sha256:zz")), "", "hex digits"},
		"no digest":         {image(`{"mediaType":"application/vnd.oci.image.layer.v1.tar","size":1}`), "", "no digest"},
		"negative size":     {strings.Replace(image(gz(shaA)), `"size":3`, `"size":-3`, 1), "", "size -3"},
		"huge config":       {strings.Replace(image(gz(shaA)), `"size":3`, `"size":99999999`, 1), "", "config of 99999999"},
		"not json":          {`<html>`, "", "parsing"},
		"too many layers":   {image(strings.Split(strings.Repeat(gz(shaA)+"|", 500)+gz(shaA), "|")...), "", "501 layers"},
	} {
		if _, err := Parse([]byte(c.doc), c.ctype); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if _, err := Parse(make([]byte, MaxSize+1), ""); err == nil {
		t.Error("an oversized manifest was parsed")
	}
}

func TestChoose(t *testing.T) {
	pl := func(arch, variant string) string {
		return fmt.Sprintf(`,"platform":{"os":"linux","architecture":%q,"variant":%q}`, arch, variant)
	}
	doc := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[%s,%s,%s,%s]}`, TypeDockerList,
		desc(TypeDockerManifest, shaB, pl("arm64", "v8")),
		desc(TypeOCIManifest, shaB, `,"platform":{"os":"unknown","architecture":"unknown"}`),
		desc(TypeDockerManifest, shaA, pl("amd64", "")),
		desc(TypeDockerManifest, shaB, pl("amd64", "v3")))
	d, err := Parse([]byte(doc), "")
	if err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]string{"linux/amd64": shaA, "linux/arm64": shaB, "linux/amd64/v3": shaB, "linux/amd64/v2": shaA} {
		pp, err := ParsePlatform(p)
		if err != nil {
			t.Fatal(err)
		}
		if m, err := d.Index.Choose(pp); err != nil || string(m.Digest) != want {
			t.Errorf("%s: %v %v", p, m, err)
		}
	}
	if _, err := d.Index.Choose(Platform{OS: "linux", Architecture: "s390x"}); err == nil || !strings.Contains(err.Error(), "linux/arm64/v8") {
		t.Errorf("s390x: %v", err)
	}
}

func TestConfig(t *testing.T) {
	d, err := Parse([]byte(image(gz(shaA), gz(shaB), gz(shaA))), "")
	if err != nil {
		t.Fatal(err)
	}
	ok := fmt.Sprintf(`{"os":"linux","architecture":"amd64","config":{"User":"web","Env":["A=b"]},"rootfs":{"type":"layers","diff_ids":[%q,%q,%q]}}`, shaA, shaB, shaA)
	c, err := ParseConfig([]byte(ok), d.Manifest)
	if err != nil || c.Config.User != "web" || !c.RunsOn(Platform{OS: "linux", Architecture: "amd64"}) {
		t.Fatalf("%+v %v", c, err)
	}
	ids := ChainIDs(c.RootFS.DiffIDs)
	if ids[0] == ids[2] || ids[1] == ids[2] {
		t.Error("repeated layers share a chain id")
	}
	for _, bad := range []string{strings.Replace(ok, `"layers"`, `"x"`, 1), strings.Replace(ok, ","+fmt.Sprintf("%q", shaB), "", 1), `{`, strings.Replace(ok, shaB, "", 1)} {
		if _, err := ParseConfig([]byte(bad), d.Manifest); err == nil {
			t.Errorf("accepted %s", bad)
		}
	}
}

func TestLayerType(t *testing.T) {
	lt, err := ParseLayerType("application/vnd.oci.image.layer.v1.tar+zstd+encrypted")
	if err != nil || lt != (LayerType{Compression: Zstd, Encrypted: true}) {
		t.Fatal(lt, err)
	}
	for _, bad := range []string{"", "+encrypted", "application/vnd.oci.image.layer.v1.tar+gzip+encrypted+encrypted", "application/vnd.oci.image.layer.v1.tar+lz4"} {
		if _, err := ParseLayerType(bad); err == nil {
			t.Errorf("accepted %q", bad)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(image(gz(shaA), gz(shaB))), []byte(`{"rootfs":{"type":"layers","diff_ids":["`+shaA+`","`+shaB+`"]}}`), "")
	f.Add([]byte(`{"schemaVersion":2,"manifests":[`+desc(TypeOCIManifest, shaA, `,"platform":{"os":"linux","architecture":"amd64"}`)+`]}`), []byte(`{}`), TypeDockerList)
	f.Fuzz(func(t *testing.T, doc, cfg []byte, ctype string) {
		d, err := Parse(doc, ctype)
		if err != nil {
			return
		}
		if (d.Index == nil) == (d.Manifest == nil) {
			t.Fatal("neither or both")
		}
		if d.Index != nil {
			_, _ = d.Index.Choose(Platform{OS: "linux", Architecture: "amd64"})
			return
		}
		if c, err := ParseConfig(cfg, d.Manifest); err == nil && len(c.RootFS.DiffIDs) != len(d.Manifest.Layers) {
			t.Fatal("counts differ")
		}
	})
}
