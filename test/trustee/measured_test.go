package trustee_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/owner/measure"
)

// TestMeasuredImagesAreImported gives the trustee what coffer measure signs for the
// TEEs that load an image: it takes the values from an owner it knows, and not
// from a stranger.
func TestMeasuredImagesAreImported(t *testing.T) {
	_, c := start(t)
	ctx, n := t.Context(), c.Namespace("default")
	pub, owner, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	enclave := make([]byte, 64) // ECREATE alone: the empty enclave
	copy(enclave, "ECREATE\x00\x01\x00\x00\x00\x00\x20")
	file := filepath.Join(t.TempDir(), "empty.sgxs")
	if err := os.WriteFile(file, enclave, 0o600); err != nil {
		t.Fatal(err)
	}
	specs := []launch.Spec{
		{TEE: launch.SGX, Image: launch.File{Path: file}, VCPUs: 1, MemoryMiB: 256},
		{TEE: launch.SE, Image: launch.File{Path: "../../tee/se/measure/testdata/secure_guest.hdr"}, VCPUs: 1, MemoryMiB: 256},
	}
	for i, known := range []bool{false, true} {
		if known {
			if _, err := n.AddOwnerKey(ctx, "me", pub); err != nil {
				t.Fatal(err)
			}
		}
		for _, spec := range specs {
			r, err := measure.Launch(&spec)
			if err != nil {
				t.Fatal(err)
			}
			b, err := r.Bundle("coffer measure", time.Now().Add(time.Hour))
			if err != nil {
				t.Fatal(err)
			}
			s, err := refvalue.Sign(b, owner)
			if err != nil {
				t.Fatal(err)
			}
			v, err := n.RegisterReferenceValues(ctx, string(spec.TEE), []byte(s.Raw))
			switch {
			case !known && (err == nil || !strings.Contains(err.Error(), "owner")):
				t.Errorf("%s of a stranger: %v", spec.TEE, err)
			case known && (err != nil || v.Values != len(r.Values) || v.SignedBy != s.KeyID):
				t.Errorf("%s, round %d: %+v, %v", spec.TEE, i, v, err)
			}
		}
	}
}
