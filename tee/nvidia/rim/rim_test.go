package rim

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/tee/nvidia/nvidiatest"
)

func signed(t testing.TB) ([]byte, *nvidiatest.Publisher) {
	root := nvidiatest.New(t, nil, "root", nil)
	p := nvidiatest.NewPublisher(t, root)
	v := bytes.Repeat([]byte{7}, 48)
	return p.Manifest(t, "GH100", "1.2", map[int][][]byte{3: {v, make([]byte, 48)}}), p
}

func TestParse(t *testing.T) {
	b, p := signed(t)
	m, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	g := m.Golden[3]
	if m.Version != "1.2" || m.Product != "GH100" || len(m.Golden) != 64 || !g.Active || len(g.Values) != 2 || g.ReportIndex() != 4 || m.Golden[4].Active {
		t.Errorf("%+v", m)
	}
	if len(m.Chain) != 3 || !m.Chain[0].Equal(p.Signer.Cert) {
		t.Errorf("%d certificates", len(m.Chain))
	}
	wrapped, err := Wrap("ID", b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Decode(wrapped, "ID"); err != nil {
		t.Error(err)
	}
	if _, err := Decode(wrapped, "OTHER"); err == nil {
		t.Error("another id accepted")
	}
	// Other spellings of the same document.
	s := string(b)
	for name, same := range map[string]string{
		"declaration":        `<?xml version="1.0" encoding="UTF-8"?>` + "\n" + s,
		"ends of lines":      strings.ReplaceAll(s, "\n", "\r\n"),
		"quotes":             strings.Replace(s, `corpus="false"`, `corpus='false'`, 1),
		"order":              strings.Replace(s, `corpus="false" name="GH100"`, `name="GH100"   corpus="false"`, 1),
		"empty element":      strings.Replace(s, `></ns0:Entity>`, `/>`, 1),
		"entity":             strings.Replace(s, `colloquialVersion="1.2"`, `colloquialVersion="1.2"`, 1),
		"repeated namespace": strings.Replace(s, `<ns0:Payload>`, `<ns0:Payload xmlns:ns2="http://www.w3.org/2001/04/xmlenc#sha384">`, 1),
	} {
		if _, err := Parse([]byte(same)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRefuses(t *testing.T) {
	b, _ := signed(t)
	s := string(b)
	signature := s[strings.Index(s, "<ds:Signature "):strings.Index(s, "</SoftwareIdentity>")]
	replace := func(old, with string) string {
		if !strings.Contains(s, old) {
			t.Fatalf("%q is not there", old)
		}
		return strings.Replace(s, old, with, 1)
	}
	for name, c := range map[string]struct {
		text      string
		signature bool // the form is right, the signature is not
	}{
		"a value":              {replace(`ns2:Hash0="0707`, `ns2:Hash0="0708`), true},
		"the version":          {replace(`colloquialVersion="1.2"`, `colloquialVersion="1.3"`), true},
		"made active":          {replace(`active="False"`, `active="True"`), true},
		"space":                {replace("\n    <ns0:Payload>", "\n     <ns0:Payload>"), true},
		"a prefix":             {replace(`<ns0:Entity name="test" role="softwareCreator tagCreator"></ns0:Entity>`, `<Entity name="test" role="softwareCreator tagCreator"></Entity>`), true},
		"a new namespace":      {replace(`<ns0:Payload>`, `<ns0:Payload xmlns:x="y">`), true},
		"the digest":           {replace("<ds:DigestValue>", "<ds:DigestValue> "), true},
		"the digest's value":   {replace("DigestValue>", "DigestValue>AAAA"), false},
		"a comment":            {replace("<ns0:Payload>", "<!-- --><ns0:Payload>"), false},
		"an instruction":       {replace("<ns0:Payload>", "<?a b?><ns0:Payload>"), false},
		"a document type":      {`<!DOCTYPE a [<!ENTITY b "c">]>` + s, false},
		"CDATA":                {replace("<ns0:Payload>", "<![CDATA[ ]]><ns0:Payload>"), false},
		"a reference":          {replace(`name="test"`, `name="&#116;est"`), false},
		"an entity":            {replace(`name="test"`, `name="&t;est"`), false},
		"xml:space":            {replace("<ns0:Payload>", `<ns0:Payload xml:space="preserve">`), false},
		"an attribute twice":   {replace(`corpus="false"`, `corpus="false" corpus="true"`), false},
		"twice by namespace":   {replace(`ns2:Hash0="0707`, `SHA:Hash0="00" xmlns:SHA="http://www.w3.org/2001/04/xmlenc#sha384" ns2:Hash0="0707`), false},
		"an unknown attribute": {replace(`corpus="false"`, `corpus="false" a="b"`), false},
		"an unknown element":   {replace("<ns0:Payload>", "<ns0:Link></ns0:Link><ns0:Payload>"), false},
		"text":                 {replace("<ns0:Payload>", "a<ns0:Payload>"), false},
		"two signatures":       {replace(signature, signature+signature), false},
		"no signature":         {replace(signature, ""), false},
		"a part is signed":     {replace(`Reference URI=""`, `Reference URI="#a"`), false},
		"another digest":       {replace("xmldsig-more#sha384", "xmldsig-more#sha224"), false},
		"RSA":                  {replace("ecdsa-sha384", "rsa-sha384"), false},
		"another transform":    {replace("enveloped-signature", "base64"), false},
		"a measurement twice":  {replace(`index="4"`, `index="5"`), false},
		"alternatives":         {replace(`alternatives="2"`, `alternatives="1"`), false},
		"active or not":        {replace(`active="False"`, `active="false"`), false},
		"size":                 {replace(`size="48"`, `size="32"`), false},
		"wrapped":              {`<a xmlns="http://standards.iso.org/iso/19770/-2/2015/schema.xsd">` + s + `</a>`, false},
		"after it":             {s + "<a/>", false},
		"undeclared prefix":    {replace("<ns0:Payload>", "<nsx:Payload>"), false},
		"not UTF-8":            {replace(`name="test"`, "name=\"\xff\""), false},
		"a control character":  {replace(`name="test"`, "name=\"\x01\""), false},
	} {
		_, err := Parse([]byte(c.text))
		if err == nil {
			t.Errorf("%s: accepted", name)
		} else if c.signature && name != "the digest" && !errors.Is(err, ErrSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for n := 0; n < len(s)-1; n += 97 {
		if _, err := Parse(b[:n]); err == nil {
			t.Errorf("%d of %d bytes: accepted", n, len(s))
		}
	}
	deep := strings.Repeat("<a>", 1000) + strings.Repeat("</a>", 1000)
	if _, err := parseXML([]byte(deep)); err == nil {
		t.Error("nested too deeply, and accepted")
	}
	if _, err := parseXML([]byte("<a>" + strings.Repeat("<b/>", 2*maxElements) + "</a>")); err == nil {
		t.Error("too many elements, and accepted")
	}
}

// Examples by hand of what Canonical XML 1.1 says.
func TestCanonical(t *testing.T) {
	for in, want := range map[string]string{
		`<a/>`:                                               `<a></a>`,
		`<a  c='1'   b="&lt;&apos;>" ></a >`:                 `<a b="&lt;'>" c="1"></a>`,
		"<a>&gt;\r\n&quot;&amp;</a>":                         "<a>&gt;\n\"&amp;</a>",
		`<a xmlns:z="u" xmlns:y="t" xmlns="s"/>`:             `<a xmlns="s" xmlns:y="t" xmlns:z="u"></a>`,
		`<a xmlns="s"><b xmlns="s"/><c xmlns=""/></a>`:       `<a xmlns="s"><b></b><c xmlns=""></c></a>`,
		`<a xmlns:y="2" xmlns:z="1" y:n="1" z:n="2" n="3"/>`: `<a xmlns:y="2" xmlns:z="1" n="3" z:n="2" y:n="1"></a>`,
	} {
		e, err := parseXML([]byte(in))
		if err != nil {
			t.Errorf("%s: %v", in, err)
		} else if have := string(canonical(e, nil)); have != want {
			t.Errorf("%s: %s, not %s", in, have, want)
		}
	}
	// A part takes the namespaces around it along.
	e, err := parseXML([]byte(`<a xmlns="s" xmlns:y="t"><y:b><c/></y:b></a>`))
	if err != nil {
		t.Fatal(err)
	}
	if have := string(canonical(e.children[0].elem, nil)); have != `<y:b xmlns="s" xmlns:y="t"><c></c></y:b>` {
		t.Error(have)
	}
	if have := string(canonical(e, e.children[0].elem)); have != `<a xmlns="s" xmlns:y="t"></a>` {
		t.Error(have)
	}
}

// FuzzParse: no crash, and what canonical writes reads back as the same.
func FuzzParse(f *testing.F) {
	b, _ := signed(f)
	f.Add(b)
	f.Add([]byte(`{"id":"a","rim":"PGEvPg=="}`))
	f.Add(fmt.Append(nil, `<a xmlns:z='u' z:b="&amp;">&lt;<c xmlns=""/></a>`))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = Decode(b, "a")
		e, err := parseXML(b)
		if err != nil {
			return
		}
		once := canonical(e, nil)
		if len(once) > MaxXML || bytes.ContainsAny(once, "\t") {
			return // values with tabs written as references, which are not read
		}
		again, err := parseXML(once)
		if err != nil {
			t.Fatalf("%q: %v", once, err)
		}
		if twice := canonical(again, nil); !bytes.Equal(once, twice) {
			t.Errorf("%q, then %q", once, twice)
		}
	})
}
