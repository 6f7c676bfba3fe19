package cli

import (
	"bytes"
	"compress/gzip"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/ear"
	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/intel/quote"
	intelsim "github.com/cofferproject/coffer/tee/intel/sim"
	"github.com/cofferproject/coffer/tee/policy"
	seattester "github.com/cofferproject/coffer/tee/se/attester"
	semeasure "github.com/cofferproject/coffer/tee/se/measure"
	"github.com/cofferproject/coffer/tee/se/setest"
	severifier "github.com/cofferproject/coffer/tee/se/verifier"
	sgxattester "github.com/cofferproject/coffer/tee/sgx/attester"
	sgxmeasure "github.com/cofferproject/coffer/tee/sgx/measure"
	sgxsim "github.com/cofferproject/coffer/tee/sgx/sim"
	sgxverifier "github.com/cofferproject/coffer/tee/sgx/verifier"
	"github.com/cofferproject/coffer/tee/verify"
)

const (
	sgxVectors = "../../tee/sgx/measure/testdata/"
	seVectors  = "../../tee/se/measure/testdata/"
)

// enclaveFile unpacks the outside enclave.
func enclaveFile(t *testing.T) string {
	t.Helper()
	f, err := os.Open(sgxVectors + "test_enclave.sgxs.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return writeFile(t, "enclave.sgxs", b)
}

func writeFile(t *testing.T, name string, b []byte) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(p, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

// measured runs coffer measure and gives its report and the values of the bundle,
// as the trustee takes them.
func measured(t *testing.T, args ...string) (*MeasureReport, *policy.References) {
	t.Helper()
	bundle := filepath.Join(t.TempDir(), "values.jws")
	out, err := measureCommand(t, append(args, "--bundle", bundle, "--output", "json")...)
	if err != nil {
		t.Fatal(err)
	}
	r := new(MeasureReport)
	if err := json.Unmarshal([]byte(out), r); err != nil {
		t.Fatal(err)
	}
	if r.MeasuredMachine != nil {
		t.Errorf("a machine for what has none: %s", out)
	}
	refs, err := policy.NewReferences(ownBundle(t, bundle).Bundle.Values, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r, refs
}

// appraised is what the default policy says of evidence.
func appraised(t *testing.T, tee string, r *verify.Result, refs *policy.References) ear.Vector {
	t.Helper()
	p, err := policy.Default(r.Class)
	if err != nil {
		t.Fatal(err)
	}
	v, err := p.Evaluate(t.Context(), &policy.Input{Evidence: map[string]any{tee: r.Claims}, References: refs, Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	return v.Vector
}

func has(r *MeasureReport, field, value string) bool {
	for _, row := range r.Rows {
		if row.Field == field && row.Value == value {
			return true
		}
	}
	return false
}

// TestMeasureSGX lets a simulated CPU report the enclave that was measured: the
// default policy affirms it by the bundle, and no other one.
func TestMeasureSGX(t *testing.T) {
	t.Setenv("COFFER_STATE", t.TempDir())
	enclave, sig := enclaveFile(t), sgxVectors+"test_enclave.sig"
	r, refs := measured(t, "sgx", "--enclave", enclave, "--sigstruct", sig)
	if !has(r, "mr_enclave", "784acfd7d5096a8f0fbd3265760bff21b120f62407a9a9e5ba31aa3c8ed198fc") || !has(r, "isv_prod_id", "ffff") || !has(r, "attributes.flags", "0500000000000000") {
		t.Errorf("%+v", r.Rows)
	}
	raw, err := os.ReadFile(sig)
	if err != nil {
		t.Fatal(err)
	}
	s, err := sgxmeasure.ParseSigstruct(raw)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	machine, err := intelsim.New(intelsim.Options{Now: now})
	if err != nil {
		t.Fatal(err)
	}
	items, err := machine.Collateral(intelsim.CollateralOptions{})
	if err != nil {
		t.Fatal(err)
	}
	v, err := sgxverifier.New(verify.Config{Kind: verify.InsecureSimulated, SimulatedRoots: []*x509.Certificate{machine.Root()}, Collateral: collateral.NewSet(items...)})
	if err != nil {
		t.Fatal(err)
	}
	judge := func(change func(*sgxsim.Measured), refs *policy.References) ear.Vector {
		flags, _ := s.ReportFlags()
		m := sgxsim.Measured{MREnclave: s.MREnclave, MRSigner: s.MRSigner, ProductID: s.ProductID, SVN: s.SVN, Flags: flags}
		change(&m)
		ev, err := sgxattester.New(sgxsim.New(machine, m), "everything").Evidence(t.Context(), make([]byte, 64), nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := v.Verify(&verify.Input{Evidence: ev, ReportData: make([]byte, 64), InsecureSkipInitdata: true, Now: now})
		if err != nil {
			t.Fatal(err)
		}
		return appraised(t, "sgx", res[0], refs)
	}
	another := func(m *sgxsim.Measured) { m.MREnclave[0]++ }
	if got := judge(func(*sgxsim.Measured) {}, refs); got.Executables != 3 || got.Configuration != 2 || got.Hardware != 2 {
		t.Errorf("the measured enclave: %+v", got)
	}
	if got := judge(another, refs); got.Executables != 33 {
		t.Errorf("another enclave of the signer: %+v", got)
	}
	if got := judge(func(m *sgxsim.Measured) { m.Debug = true }, refs); got.Configuration != 36 {
		t.Errorf("debug: %+v", got)
	}
	if got := judge(func(m *sgxsim.Measured) { m.Flags |= quote.FlagKSS }, refs); got.Configuration != 3 {
		t.Errorf("attributes that the signature does not allow: %+v", got)
	}
	_, refs = measured(t, "sgx", "--enclave", enclave, "--sigstruct", sig, "--accept-signer")
	if got := judge(another, refs); got.Executables != 4 {
		t.Errorf("another enclave of the accepted signer: %+v", got)
	}
	for name, change := range map[string]func(*sgxsim.Measured){
		"another signer": func(m *sgxsim.Measured) { m.MRSigner[0]++ }, "another product": func(m *sgxsim.Measured) { m.ProductID-- }, "another version": func(m *sgxsim.Measured) { m.SVN++ },
	} {
		if got := judge(func(m *sgxsim.Measured) { another(m); change(m) }, refs); got.Executables != 33 {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// seHeader is an image's header (layout alone: nobody can decrypt it) for host
// keys of these hashes.
func seHeader(keys ...[]byte) []byte {
	b := make([]byte, 0x1a0, 0x400)
	copy(b, "IBMSecEx")
	be := binary.BigEndian
	be.PutUint32(b[8:], 0x100)
	be.PutUint64(b[0x20:], uint64(len(keys)))
	be.PutUint64(b[0x28:], 0x80)
	for i := range 192 {
		b[0xe0+i] = byte(i)
	}
	for _, k := range keys {
		b = append(append(b, k...), make([]byte, 48)...)
	}
	b = append(append(b, make([]byte, 0x80)...), "tag of the image"...)
	be.PutUint32(b[12:], uint32(len(b)))
	return b
}

// hostKeyDocument is a certificate for the machine's key, by a key of the test's.
func hostKeyDocument(t *testing.T, m *setest.Machine) []byte {
	t.Helper()
	public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P521(), m.HostKey().Bytes())
	if err != nil {
		t.Fatal(err)
	}
	ca, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, public, ca)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// TestMeasureSE lets a fake ultravisor attest to the image whose header was
// measured; hardware is not affirmed until the host key's document is named.
func TestMeasureSE(t *testing.T) {
	t.Setenv("COFFER_STATE", t.TempDir())
	machine, err := setest.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	hash, err := severifier.HostKeyHash(machine.HostKey())
	if err != nil {
		t.Fatal(err)
	}
	image := seHeader(hash)
	h, err := semeasure.ReadHeader(bytes.NewReader(image))
	if err != nil {
		t.Fatal(err)
	}
	machine.Tags = h.Tags.Bytes()
	sealer, err := severifier.NewSealer(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	v, err := severifier.New(severifier.Config{Config: verify.Config{Kind: verify.Production, AllowUnproven: []string{severifier.Unproven}}, Opener: sealer})
	if err != nil {
		t.Fatal(err)
	}
	challenge, err := severifier.NewChallenge(sealer, []*ecdh.PublicKey{machine.HostKey()}, h.Tags)
	if err != nil {
		t.Fatal(err)
	}
	nonce, err := json.Marshal(challenge)
	if err != nil {
		t.Fatal(err)
	}
	ev, err := seattester.New(machine).Answer(t.Context(), string(nonce), make([]byte, 64))
	if err != nil {
		t.Fatal(err)
	}
	res, err := v.Verify(&verify.Input{Evidence: ev, Nonce: string(nonce), ReportData: make([]byte, 64), Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	file := writeFile(t, "pod.img", image)
	_, refs := measured(t, "se", "--boot-image", file)
	if got := appraised(t, "se", res[0], refs); got.Executables != 3 || got.Hardware != 97 || got.Configuration != 2 {
		t.Errorf("the measured image, host key unknown: %+v", got)
	}
	document := writeFile(t, "hkd.crt", hostKeyDocument(t, machine))
	r, refs := measured(t, "se", "--boot-image", file, "--host-key", document)
	if got := appraised(t, "se", res[0], refs); got.Executables != 3 || got.Hardware != 2 || got.Configuration != 2 {
		t.Errorf("the measured image: %+v of %+v", got, r.Rows)
	}
	image[len(image)-1]++
	_, refs = measured(t, "se", "--boot-image", writeFile(t, "pod.img", image), "--host-key", document)
	if got := appraised(t, "se", res[0], refs); got.Executables != 33 {
		t.Errorf("another image: %+v", got)
	}
	// The machine's own key and one that nobody named.
	two := writeFile(t, "two.img", seHeader(hash, make([]byte, 32)))
	if out, err := measureCommand(t, "se", "--boot-image", two, "--host-key", document); err == nil || !strings.Contains(err.Error(), "key slot 2") {
		t.Errorf("an image that a stranger can decrypt: %v\n%s", err, out)
	}
	r, _ = measured(t, "se", "--boot-image", seVectors+"secure_guest.hdr")
	if !has(r, "tag", "92309d4589b9a85b427f8753171d1520") || !has(r, "image_phkh", "782966a6298f6f5968780c3134ca4c55958d2dbca5292f59e9f5d2670befaf2f") {
		t.Errorf("%+v", r.Rows)
	}
}

// TestMeasureImageRefuses names the file or flag, and the field.
func TestMeasureImageRefuses(t *testing.T) {
	t.Setenv("COFFER_STATE", t.TempDir())
	enclave, sig, other, header := enclaveFile(t), sgxVectors+"test_enclave.sig", sgxVectors+"sig1.sigstruct.bin", seVectors+"secure_guest.hdr"
	doc := writeFile(t, "initdata.toml", []byte("version = \"0.1.0\"\nalgorithm = \"sha512\"\n\n[data]\n\"x\" = \"y\"\n"))
	b, err := os.ReadFile(header)
	if err != nil {
		t.Fatal(err)
	}
	cut := writeFile(t, "cut.hdr", b[:len(b)-1])
	for want, args := range map[string][]string{
		"--enclave":                       {"sgx"},
		"--boot-image":                    {"se"},
		"--kernel":                        {"sgx", "--enclave", enclave, "--kernel", enclave},
		"--vcpus":                         {"se", "--boot-image", header, "--vcpus", "2"},
		"--host-key":                      {"sgx", "--enclave", enclave, "--host-key", header},
		"--sigstruct":                     {"se", "--boot-image", header, "--sigstruct", sig},
		"--from-pod":                      {"sgx", "--from-pod", "pod.yaml"},
		"--boot-image: says":              {"cca-sim", "--kernel", enclave, "--boot-image", header},
		"no SIGSTRUCT":                    {"sgx", "--enclave", enclave, "--accept-signer"},
		"sig1.sigstruct.bin: ENCLAVEHASH": {"sgx", "--enclave", enclave, "--sigstruct", other},
		"enclave.sgxs: sigstruct":         {"sgx", "--enclave", enclave, "--sigstruct", enclave},
		"secure_guest.hdr: sgxs":          {"sgx", "--enclave", header},
		"initdata: CONFIGID":              {"sgx", "--enclave", enclave, "--sigstruct", sig, "--initdata", doc},
		"initdata: Secure Execution":      {"se", "--boot-image", header, "--initdata", doc},
		"cut.hdr: secure execution image: header's": {"se", "--boot-image", cut},
		"host_keys[0]": {"se", "--boot-image", header, "--host-key", header},
		"key slot 1":   {"se", "--boot-image", header, "--host-key", seVectors + "host.pem.crt"},
		"no such file": {"sgx", "--enclave", filepath.Join(t.TempDir(), "none")},
	} {
		if out, err := measureCommand(t, args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q\n%s", args, err, want, out)
		}
	}
}
