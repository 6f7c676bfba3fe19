package swtpm

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/asn1"
	"os"
	"os/exec"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/cofferproject/coffer/host/supervise"
)

func program(t testing.TB) string {
	t.Helper()
	p, err := exec.LookPath("swtpm")
	if err != nil {
		t.Skip("swtpm is not installed")
	}
	return p
}

func TestManufacture(t *testing.T) {
	path := program(t)
	ca, err := OpenCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	_, uid, err := supervise.PrivateUIDs()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	tpm, err := New(context.Background(), path, dir, uid, ca)
	if err != nil {
		t.Fatal(err)
	}
	// Look at it as a VM would, but over a data connection.
	ours, theirs, err := pair("tpm")
	if err != nil {
		t.Fatal(err)
	}
	cmd, _, err := tpm.start(theirs, "--fd", "%d", "--flags", "not-need-init,startup-clear", "--terminate")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { ours.Close(); cmd.Wait(); tpm.Close() }()
	tr := pipe{ours}
	pub, err := tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(ekHandle)}.Execute(tr)
	if err != nil {
		t.Fatal(err)
	}
	ek, err := ekPublic(pub.OutPublic)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(readNV(t, tr))
	if err != nil {
		t.Fatal(err)
	}
	if !ek.Equal(cert.PublicKey) {
		t.Error("the certificate is of another key")
	}
	root, err := x509.ParseCertificate(ca.RootDER())
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(root)
	// The name is one of a device, which crypto/x509 does not know.
	cert.UnhandledCriticalExtensions = nil
	if _, err := cert.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		t.Error(err)
	}
	if len(cert.UnknownExtKeyUsage) != 1 || !cert.UnknownExtKeyUsage[0].Equal(asn1.ObjectIdentifier{2, 23, 133, 8, 1}) {
		t.Errorf("extended key usage %v", cert.UnknownExtKeyUsage)
	}
	sel, err := tpm2.PCRRead{PCRSelectionIn: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{
		{Hash: tpm2.TPMAlgSHA1, PCRSelect: []byte{1, 0, 0}}, {Hash: tpm2.TPMAlgSHA256, PCRSelect: []byte{1, 0, 0}},
	}}}.Execute(tr)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(sel.PCRValues.Digests); n != 1 {
		t.Errorf("%d PCR banks answer, want the SHA-256 one alone", n)
	}
}

func readNV(t *testing.T, tr pipe) []byte {
	t.Helper()
	info, err := tpm2.NVReadPublic{NVIndex: tpm2.TPMHandle(ekCertNV)}.Execute(tr)
	if err != nil {
		t.Fatal(err)
	}
	p, err := info.NVPublic.Contents()
	if err != nil {
		t.Fatal(err)
	}
	r, err := tpm2.NVRead{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		NVIndex:    &tpm2.NamedHandle{Handle: ekCertNV, Name: info.NVName}, Size: p.DataSize,
	}.Execute(tr)
	if err != nil {
		t.Fatal(err)
	}
	return r.Data.Buffer
}

func TestStateIsEncryptedAndWiped(t *testing.T) {
	path := program(t)
	ca, err := OpenCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir() + "/tpm"
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	_, uid, err := supervise.PrivateUIDs()
	if err != nil {
		t.Fatal(err)
	}
	tpm, err := New(context.Background(), path, dir, uid, ca)
	if err != nil {
		t.Fatal(err)
	}
	tpm.Close()
	b, err := os.ReadFile(dir + "/tpm2-00.permall")
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(b, []byte("swtpm (simulated)")) {
		t.Error("the certificate is readable in the state: it is not encrypted")
	}
	if err := Wipe(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("after Wipe: %v", err)
	}
}

func TestMissingProgram(t *testing.T) {
	ca, err := OpenCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(context.Background(), "/nonexistent/swtpm", t.TempDir(), 0, ca); err == nil {
		t.Fatal("no error")
	}
}

func TestCAIsKept(t *testing.T) {
	dir := t.TempDir()
	a, err := OpenCA(dir)
	if err != nil {
		t.Fatal(err)
	}
	b, err := OpenCA(dir)
	if err != nil {
		t.Fatal(err)
	}
	if a.RootSPKI() != b.RootSPKI() || len(a.RootSPKI()) != 64 {
		t.Fatalf("roots %s and %s", a.RootSPKI(), b.RootSPKI())
	}
}

func BenchmarkManufacture(b *testing.B) {
	path := program(b)
	ca, err := OpenCA(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	_, uid, err := supervise.PrivateUIDs()
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		t, err := New(context.Background(), path, b.TempDir(), uid, ca)
		if err != nil {
			b.Fatal(err)
		}
		t.Close()
	}
}
