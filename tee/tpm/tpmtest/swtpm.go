// Package tpmtest runs a software TPM (swtpm) for tests, with an endorsement
// certificate of a throw-away root. Where swtpm is missing the test is skipped,
// in CI it fails.
//
// Trust zone: tests only.
package tpmtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/tpm"
	"github.com/cofferproject/coffer/tee/tpm/device"
)

// Start runs a fresh software TPM until the test ends.
func Start(t testing.TB) *device.Conn {
	t.Helper()
	bin, err := exec.LookPath("swtpm")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("swtpm is missing (Debian package swtpm)")
		}
		t.Skip("swtpm is missing (Debian package swtpm)")
	}
	// A short path: a Unix socket's name is limited to 107 bytes.
	dir, err := os.MkdirTemp("", "tpm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	sock := filepath.Join(dir, "s")
	cmd := exec.Command(bin, "socket", "--tpm2", "--tpmstate", "dir="+dir, "--server", "type=unixio,path="+sock,
		"--flags", "not-need-init,startup-clear")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for deadline := time.Now().Add(20 * time.Second); ; {
		c, err := net.Dial("unix", sock)
		if err == nil {
			conn := device.NewConn(c)
			t.Cleanup(func() { _ = conn.Close() })
			return conn
		}
		if time.Now().After(deadline) {
			t.Fatalf("swtpm does not answer: %v", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// CA is a root that certifies endorsement keys.
type CA struct {
	Root *x509.Certificate
	// ListURL, if set, is where certificates say that revocation lists are.
	ListURL string
	// Last is the serial number of the certificate made last.
	Last *big.Int
	key  *ecdsa.PrivateKey
}

// List makes the maker's revocation list, valid for a day around now.
func (ca *CA) List(t testing.TB, now time.Time, revoked ...*big.Int) *collateral.Item {
	t.Helper()
	l := &x509.RevocationList{Number: big.NewInt(now.Unix()), ThisUpdate: now.Add(-12 * time.Hour), NextUpdate: now.Add(12 * time.Hour)}
	for _, n := range revoked {
		l.RevokedCertificateEntries = append(l.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: n, RevocationTime: now.Add(-13 * time.Hour)})
	}
	der, err := x509.CreateRevocationList(rand.Reader, l, ca.Root, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	return &collateral.Item{Origin: strings.Replace(ca.ListURL, "http:", "https:", 1), Body: der, Fetched: now.UTC()}
}

// NewCA makes a root.
func NewCA(t testing.TB, name string) *CA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SubjectKeyId: []byte(name), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &CA{Root: root, key: key}
}

// Provision certifies the TPM's endorsement key of one kind (an index of
// tpm.EKKinds) as a manufacturer does: a critical SAN of only a directoryName,
// the EK certificate's extended key usage, the certificate in NV memory.
func (ca *CA) Provision(t testing.TB, c transport.TPM, kind int) {
	t.Helper()
	k := tpm.EKKinds()[kind]
	rsp, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)}, InPublic: tpm2.New2B(k.Template),
	}.Execute(c)
	if err != nil {
		t.Fatal(err)
	}
	area, err := rsp.OutPublic.Contents()
	if err != nil {
		t.Fatal(err)
	}
	pub, err := tpm2.Pub(*area)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (tpm2.FlushContext{FlushHandle: rsp.ObjectHandle}).Execute(c); err != nil {
		t.Fatal(err)
	}
	name, err := asn1.Marshal(pkix.Name{CommonName: "test TPM model"}.ToRDNSequence())
	if err != nil {
		t.Fatal(err)
	}
	dirName, err := asn1.Marshal(asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: name})
	if err != nil {
		t.Fatal(err)
	}
	san, err := asn1.Marshal(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: dirName})
	if err != nil {
		t.Fatal(err)
	}
	var lists []string
	if ca.ListURL != "" {
		lists = []string{ca.ListURL}
	}
	ca.Last = big.NewInt(time.Now().UnixNano())
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: ca.Last, CRLDistributionPoints: lists, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		UnknownExtKeyUsage: []asn1.ObjectIdentifier{{2, 23, 133, 8, 1}}, BasicConstraintsValid: true,
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: true, Value: san}},
	}, ca.Root, pub, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	WriteNV(t, c, k.NVIndex, der)
}

// WriteNV stores a certificate in NV memory, in an index larger than it.
func WriteNV(t testing.TB, c transport.TPM, index uint32, b []byte) {
	t.Helper()
	b = append(b, make([]byte, 16)...) // indices are often larger than the certificate
	owner := tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}
	if _, err := (tpm2.NVDefineSpace{AuthHandle: owner, PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{
		NVIndex: tpm2.TPMHandle(index), NameAlg: tpm2.TPMAlgSHA256, DataSize: uint16(len(b)),
		Attributes: tpm2.TPMANV{OwnerWrite: true, AuthRead: true, OwnerRead: true, NoDA: true},
	})}).Execute(c); err != nil {
		t.Fatal(err)
	}
	for off := 0; off < len(b); off += 512 {
		pub, err := tpm2.NVReadPublic{NVIndex: tpm2.TPMHandle(index)}.Execute(c)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := (tpm2.NVWrite{
			AuthHandle: owner, NVIndex: tpm2.NamedHandle{Handle: tpm2.TPMHandle(index), Name: pub.NVName},
			Data: tpm2.TPM2BMaxNVBuffer{Buffer: b[off:min(len(b), off+512)]}, Offset: uint16(off),
		}).Execute(c); err != nil {
			t.Fatal(err)
		}
	}
}

// Boot plays the firmware: extends the TPM with the events and writes their log
// to a file, whose path it gives.
func Boot(t testing.TB, c transport.TPM, events []refvalue.Event) string {
	t.Helper()
	le := binary.LittleEndian
	// The header says: one bank, SHA-256.
	spec := append([]byte("Spec ID Event03\x00"), 0, 0, 0, 0, 0, 2, 0, 2, 1, 0, 0, 0, 0x0b, 0, 32, 0, 0)
	log := le.AppendUint32(nil, 0)
	log = le.AppendUint32(log, uint32(refvalue.NoAction))
	log = append(log, make([]byte, 20)...)
	log = le.AppendUint32(log, uint32(len(spec)))
	log = append(log, spec...)
	for _, e := range events {
		if err := device.Extend(c, uint(e.PCR), e.Digest); err != nil {
			t.Fatal(err)
		}
		log = le.AppendUint32(log, uint32(e.PCR))
		log = le.AppendUint32(log, uint32(e.Type))
		log = le.AppendUint32(log, 1)
		log = le.AppendUint16(log, 0x000b)
		log = append(log, e.Digest[:]...)
		log = le.AppendUint32(log, 0)
	}
	path := filepath.Join(t.TempDir(), "binary_bios_measurements")
	if err := os.WriteFile(path, log, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Events gives the events of a plausible boot.
func Events() []refvalue.Event {
	e := func(pcr int, typ refvalue.EventType, what string) refvalue.Event {
		return refvalue.Event{PCR: pcr, Type: typ, What: what, Digest: refvalue.Digest(sum(what))}
	}
	return []refvalue.Event{
		e(0, refvalue.EFIPlatformFirmwareBlob2, "firmware volume"), e(7, refvalue.EFIVariableDriverConfig, "SecureBoot"),
		e(1, refvalue.EFIVariableBoot, "BootOrder"), e(4, refvalue.EFIBootServicesApp, "kernel (Authenticode)"),
		e(9, refvalue.EventTag, "kernel command line"), e(9, refvalue.EventTag, "Linux initrd"), e(5, refvalue.EFIAction, "Exit Boot Services Invocation"),
	}
}

// References gives the reference values that explain Events.
func References() *refvalue.Bundle {
	return &refvalue.Bundle{Version: refvalue.Version, Sets: []refvalue.Set{
		{TEE: "tpm-sim", Image: "sim", MemoryMiB: 512, Events: Events(), Source: "test build"},
		{TEE: "tpm", Image: "release", MemoryMiB: 512, Events: Events(), Source: "test build"},
	}}
}
