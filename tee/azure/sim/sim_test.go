package sim_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/cofferproject/coffer/tee/azure"
	"github.com/cofferproject/coffer/tee/azure/azuretest"
	"github.com/cofferproject/coffer/tee/azure/sim"
	intelsim "github.com/cofferproject/coffer/tee/intel/sim"
	"github.com/cofferproject/coffer/tee/tpm/attester"
	"github.com/cofferproject/coffer/tee/tpm/device"
)

func vtpm(t testing.TB) *sim.VTPM {
	t.Helper()
	p, err := intelsim.New(intelsim.Options{})
	if err != nil {
		t.Fatal(err)
	}
	v, err := sim.New(sim.Options{TD: &azuretest.TD{Platform: p, Body: p.TD()}, AK: azuretest.AK(), PCRs: sim.ResetPCRs()})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// The simulated TPM calls itself one, and answers what a TPM answers.
func TestAnswersOfATPM(t *testing.T) {
	v := vtpm(t)
	vendor, err := attester.ReadVendor(v)
	if err != nil || !vendor.Software() || vendor.Manufacturer != "CSIM" || vendor.Strings != "SW SIMULATION" {
		t.Errorf("vendor %v, %v", vendor, err)
	}
	if err := device.FlushTransient(v); err != nil {
		t.Error(err)
	}
	owner := tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}
	define := func(index tpm2.TPMHandle, size uint16) error {
		_, err := tpm2.NVDefineSpace{AuthHandle: owner, PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{NVIndex: index, NameAlg: tpm2.TPMAlgSHA256, DataSize: size})}.Execute(v)
		return err
	}
	if err := define(azure.NVUserData, 32); !errors.Is(err, tpm2.TPMRCValue) {
		t.Errorf("user data of 32 bytes: %v", err)
	}
	if err := define(azure.NVReport, 64); !errors.Is(err, tpm2.TPMRCNVDefined) {
		t.Errorf("the report's index again: %v", err)
	}
	if err := define(0x01500001, 16); err != nil {
		t.Error(err)
	}
	if _, err := device.ReadNV(v, 0x01500001, true, 64); !errors.Is(err, tpm2.TPMRCNVUninitialized) {
		t.Errorf("read before written: %v", err)
	}
	if err := device.WriteNV(v, azure.NVReport, make([]byte, 64)); err == nil {
		t.Error("wrote the paravisor's report")
	}
	if _, err := device.ReadNV(v, 0x01500002, true, 64); !errors.Is(err, tpm2.TPMRCHandle) {
		t.Errorf("no such index: %v", err)
	}
	if _, err := (tpm2.PCRReset{PCRHandle: tpm2.AuthHandle{Handle: 16, Auth: tpm2.PasswordAuth(nil)}}).Execute(v); !errors.Is(err, tpm2.TPMRCCommandCode) {
		t.Errorf("reset: %v", err)
	}
	if _, err := (tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(0x81000004)}).Execute(v); !errors.Is(err, tpm2.TPMRCHandle) {
		t.Errorf("another key: %v", err)
	}
	if err := v.Extend(24, [32]byte{}); err == nil {
		t.Error("extended PCR 24")
	}
}

func TestRegistersOfAReset(t *testing.T) {
	p := sim.ResetPCRs()
	if p[8] != [32]byte{} || p[16] != [32]byte{} || p[23] != [32]byte{} || !bytes.Equal(p[17][:], bytes.Repeat([]byte{0xff}, 32)) || p[22] != p[17] {
		t.Errorf("%x", p)
	}
}

func TestMetadata(t *testing.T) {
	v := vtpm(t)
	for _, c := range []struct{ url, body string }{
		{azure.AMDCertificates, ""}, {azure.IntelQuote, ""}, {azure.IntelQuote, `{"report":"AAAA"}`}, {azure.IntelQuote, `{"report":"*"}`}, {"http://169.254.169.254/", ""},
	} {
		if b, err := v.Metadata(c.url, []byte(c.body)); err == nil {
			t.Errorf("%s %s: %s", c.url, c.body, b)
		}
	}
	if _, err := sim.New(sim.Options{}); err == nil {
		t.Error("made without hardware")
	}
}

// FuzzSend sends commands as a hostile guest may.
func FuzzSend(f *testing.F) {
	v := vtpm(f)
	f.Add([]byte{0x80, 1, 0, 0, 0, 14, 0, 0, 1, 0x73, 0x81, 0, 0, 3})
	rec := recorder{VTPM: v}
	pub, err := tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(azure.AKHandle)}.Execute(&rec)
	if err != nil {
		f.Fatal(err)
	}
	key := &tpm2.NamedHandle{Handle: azure.AKHandle, Name: pub.Name}
	if _, err := device.NewQuote(&rec, key, []byte("x")); err != nil {
		f.Fatal(err)
	}
	if err := device.WriteNV(&rec, azure.NVUserData, make([]byte, 64)); err != nil {
		f.Fatal(err)
	}
	if _, err := device.ReadNV(&rec, azure.NVReport, true, 4096); err != nil {
		f.Fatal(err)
	}
	if err := device.Extend(&rec, 11, sha256.Sum256(nil)); err != nil {
		f.Fatal(err)
	}
	for _, c := range rec.commands {
		f.Add(c)
	}
	f.Fuzz(func(t *testing.T, cmd []byte) {
		b, err := v.Send(cmd)
		if err != nil || len(b) < 10 || len(b) > 4096 || int(b[4])<<8|int(b[5]) != len(b) {
			t.Errorf("answer %x, %v", b, err)
		}
	})
}

type recorder struct {
	*sim.VTPM
	commands [][]byte
}

func (r *recorder) Send(cmd []byte) ([]byte, error) {
	r.commands = append(r.commands, bytes.Clone(cmd))
	return r.VTPM.Send(cmd)
}
