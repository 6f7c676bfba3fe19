package server

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/veraison/go-cose"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/tee/nvidia/nvidiatest"
)

type cborMap = map[any]any

// manifest makes a CoRIM with one digest, "796573".
func manifest(t testing.TB, id string, expires time.Time) []byte {
	t.Helper()
	encode := func(v any) []byte {
		b, err := cbor.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	comid := encode(cborMap{1: cborMap{0: "tag"}, 4: cborMap{0: []any{[]any{
		cborMap{0: cborMap{1: "ACME", 2: "RoadRunner"}}, []any{cborMap{0: "fw", 1: cborMap{2: []any{[]any{1, []byte("yes")}}}}},
	}}}})
	return encode(cbor.Tag{Number: 501, Content: cborMap{
		0: id, 1: []any{cbor.Tag{Number: 506, Content: comid}}, 4: cborMap{1: cbor.Tag{Number: 1, Content: expires.Unix()}},
	}})
}

// signManifest signs it as COSE_Sign1.
func signManifest(t testing.TB, payload []byte, alg cose.Algorithm, key crypto.Signer) []byte {
	t.Helper()
	s, err := cose.NewSigner(alg, key)
	if err != nil {
		t.Fatal(err)
	}
	m := cose.NewSign1Message()
	m.Payload = payload
	m.Headers.Protected.SetAlgorithm(alg)
	m.Headers.Protected[cose.HeaderLabelContentType] = "application/rim+cbor"
	if err := m.Sign(rand.Reader, nil, s); err != nil {
		t.Fatal(err)
	}
	b, err := m.MarshalCBOR()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A CoRIM is registered as it was signed: its values count while its signer is an
// owner and until it says, and the list says who, what and when.
func TestSignedManifest(t *testing.T) {
	w := newWorld(t)
	doc := document(t, "pod a")
	w.bindSecret("default", secretName, "hunter2", doc)
	policy := strings.Replace(fakePolicy(), "executables := 3 if input.faketee", `executables := 3 if { input.faketee; "796573" in query_reference_value("ACME/RoadRunner/fw/digests") }`, 1)
	if status, b := w.admin.do("PUT", "/namespaces/default/policies/default_cpu", []byte(policy)); status != 200 {
		t.Fatalf("%d %s", status, b)
	}
	try := func() int {
		c := w.client("")
		c.handshake(doc)
		return c.get(secretName).status
	}
	put := func(doc []byte) (int, []byte) {
		return w.admin.do("PUT", "/namespaces/default/reference-values/firmware", doc)
	}
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	body := manifest(t, "acme-1", time.Now().Add(time.Hour))
	signed := signManifest(t, body, cose.AlgorithmEdDSA, key)
	if status, b := put(signed); status != 400 || !strings.Contains(string(b), "owner") {
		t.Errorf("a stranger's signature: %d %s", status, b)
	}
	owner := w.admin.addOwner("default", pub)
	bent := append([]byte(nil), signed...)
	bent[len(bent)-1] ^= 1
	if status, _ := put(bent); status != 400 {
		t.Errorf("a bent signature: %d", status)
	}
	if status, b := put(signManifest(t, manifest(t, "old", time.Now().Add(-time.Minute)), cose.AlgorithmEdDSA, key)); status != 400 || !strings.Contains(string(b), "expired") {
		t.Errorf("expired: %d %s", status, b)
	}
	if got := try(); got != 403 {
		t.Errorf("before the manifest: %d", got)
	}
	status, b := put(signed)
	var info trusteeapi.ReferenceValues
	if err := json.Unmarshal(b, &info); status != 200 || err != nil || info.Format != "corim" || info.SignedBy != owner.ID || info.Values != 1 || info.Expires.IsZero() ||
		info.Actor == "" || info.Registered.IsZero() || !strings.Contains(string(info.Provenance), "CoRIM acme-1") {
		t.Fatalf("%d %s", status, b)
	}
	if got := try(); got != 200 {
		t.Errorf("with the manifest: %d", got)
	}
	if status, _ := w.admin.do("DELETE", "/namespaces/default/owners/"+owner.ID, nil); status != 204 {
		t.Fatal(status)
	}
	if got := try(); got != 403 {
		t.Errorf("after the key's withdrawal: %d", got)
	}
	w.admin.addOwner("default", pub)
	if got := try(); got != 200 {
		t.Errorf("with the key again: %d", got)
	}
	w.clock.advance(2 * time.Hour)
	if got := try(); got != 403 {
		t.Errorf("after its end: %d", got)
	}
}

// The published messages take manifests with the signatures that they have, each as
// a document of its own, which can be listed and removed.
func TestManifestMessages(t *testing.T) {
	admins := newAuthority(t, "admins")
	w := newWorld(t, func(c *Config) { c.Services = Services{Reference: "127.0.0.1:0", AdminCA: admins.file} })
	rvps := w.serviceClient(w.s.Client().ReferenceURL, admins)
	send := func(kind string, payload []byte) (int, string) {
		m := fmt.Sprintf(`{"version":"0.1.0","type":%q,"payload":%q}`, kind, base64.StdEncoding.EncodeToString(payload))
		_, _, status, text := rvps.call(registerMethod, message{{1, m}})
		return status, text
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	first := signManifest(t, manifest(t, "acme", time.Now().Add(time.Hour)), cose.AlgorithmES256, key)
	if status, text := send("corim", first); status != grpcInvalidArgument || !strings.Contains(text, "owner") {
		t.Errorf("a stranger's: %d %s", status, text)
	}
	w.admin.addOwner("default", key.Public())
	for _, doc := range [][]byte{first, signManifest(t, manifest(t, "acme", time.Now().Add(2*time.Hour)), cose.AlgorithmES256, key)} {
		if status, text := send("corim", doc); status != grpcOK {
			t.Fatalf("%d %s", status, text)
		}
	}
	if v, ok, status, _ := rvps.call(queryMethod, message{{1, "ACME/RoadRunner/fw/digests"}}); status != grpcOK || !ok || v != `["796573"]` {
		t.Errorf("query: %d %s", status, v)
	}
	var l []trusteeapi.ReferenceValues
	_, b := w.admin.do("GET", "/namespaces/default/reference-values", nil)
	if err := json.Unmarshal(b, &l); err != nil || len(l) != 1 || l[0].Format != "corim" || !strings.HasPrefix(l[0].Actor, "cert:") || time.Until(l[0].Expires) < time.Hour {
		t.Fatalf("list: %s %v", b, err)
	}
	for kind, payload := range map[string][]byte{
		"swid": first, "sample": first, "corim": []byte(`{"version":1}`), "slsa": first, "": first,
	} {
		if status, _ := send(kind, payload); status != grpcInvalidArgument {
			t.Errorf("%s: %d", kind, status)
		}
	}
	if status, text := send("swid", []byte("<SoftwareIdentity/>")); status != grpcInvalidArgument {
		t.Errorf("a tag without a signature: %d %s", status, text)
	}
	if status, b := w.admin.do("DELETE", "/namespaces/default/reference-values/"+l[0].Name, nil); status != 204 {
		t.Fatalf("%d %s", status, b)
	}
	if _, ok, _, _ := rvps.call(queryMethod, message{{1, "ACME/RoadRunner/fw/digests"}}); ok {
		t.Error("removed, and known still")
	}
	// An unsigned one is an administrator's word, as a sample message is.
	if status, text := send("corim", manifest(t, "acme", time.Now().Add(time.Hour))); status != grpcOK {
		t.Errorf("unsigned: %d %s", status, text)
	}
}

// A SWID tag as NVIDIA signs them counts by its chain: in a simulated namespace to a
// root registered there; in production to NVIDIA's alone, and only where reading them
// is allowed without an outside vector.
func TestSWIDTag(t *testing.T) {
	root, stranger := nvidiatest.New(t, nil, "root", nil), nvidiatest.New(t, nil, "stranger", nil)
	golden := []byte(strings.Repeat("\x75", 48))
	tag := nvidiatest.NewPublisher(t, root).Manifest(t, "GH100", "580.95.05", map[int][][]byte{12: {golden}})
	w := newWorld(t, loopback, func(c *Config) { c.Services.Namespace = "sim" })
	put := func(ns string, doc []byte) (int, string) {
		status, b := w.admin.do("PUT", "/namespaces/"+ns+"/reference-values/driver", doc)
		return status, string(b)
	}
	if status, text := put("sim", tag); status != 400 || !strings.Contains(text, "no root") {
		t.Errorf("without a root: %d %s", status, text)
	}
	w.admin.must("POST", "/namespaces/sim/roots", trusteeapi.EKRoot{TEE: "nvidia", Certificate: string(nvidiatest.PEM(root.Cert))})
	if status, text := put("sim", nvidiatest.NewPublisher(t, stranger).Manifest(t, "GH100", "580.95.05", map[int][][]byte{12: {golden}})); status != 400 {
		t.Errorf("a stranger's: %d %s", status, text)
	}
	if status, text := put("sim", []byte(strings.Replace(string(tag), strings.Repeat("75", 48), strings.Repeat("76", 48), 1))); status != 400 {
		t.Errorf("another value: %d %s", status, text)
	}
	status, text := put("sim", tag)
	var info trusteeapi.ReferenceValues
	if err := json.Unmarshal([]byte(text), &info); status != 200 || err != nil || info.Format != "swid" || !strings.HasPrefix(info.SignedBy, "x509:") || !info.Expires.Equal(nvidiatest.End) {
		t.Fatalf("%d %s", status, text)
	}
	want := `["` + strings.Repeat("75", 48) + `"]`
	if v, ok, code, _ := newWireClient(t, w.s.Client().ReferenceURL, nil).call(queryMethod, message{{1, "NVIDIA_Corporation.GPU.measurement_12"}}); code != grpcOK || !ok || v != want {
		t.Errorf("query: %d %s", code, v)
	}
	if status, text := put("default", tag); status != 400 || !strings.Contains(text, "nvidia-rim") {
		t.Errorf("production: %d %s", status, text)
	}
	w.admin.must("PUT", "/namespaces/default/allow-unproven", trusteeapi.AllowUnproven{AllowUnproven: []string{"nvidia-rim"}})
	if status, text := put("default", tag); status != 400 || strings.Contains(text, "does not allow") {
		t.Errorf("production, of a simulated vendor: %d %s", status, text)
	}
}
