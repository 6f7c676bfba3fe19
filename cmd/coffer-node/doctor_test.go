package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/host/hostcheck"
)

func TestDoctor(t *testing.T) {
	t.Setenv("COFFER_CACHE", t.TempDir()) // no platform: nothing can be ready
	var out bytes.Buffer
	if err := doctorMain([]string{"--output", "json"}, &out); !errors.Is(err, errNoTEE) {
		t.Fatal(err)
	}
	var doc struct{ TEEs []hostcheck.Report }
	if err := json.Unmarshal(out.Bytes(), &doc); err != nil || len(doc.TEEs) != len(hostcheck.TEEs()) {
		t.Fatalf("%v: %s", err, out.String())
	}
	for _, r := range doc.TEEs {
		for _, c := range r.Checks {
			if c.ID == "" || c.What == "" || c.Found == "" || c.OK != (c.Fix == "") {
				t.Errorf("%s: %+v", r.TEE, c)
			}
		}
	}
	out.Reset()
	if err := doctorMain([]string{"--tee", "tdx"}, &out); !errors.Is(err, errNoTEE) || !strings.HasPrefix(out.String(), "tdx: not here\n") {
		t.Errorf("%v: %s", err, out.String())
	}
	out.Reset()
	if err := doctorMain([]string{"--tee", "snp", "--host-device", "ffff:ff:1f.7"}, &out); !errors.Is(err, errNoTEE) || !strings.Contains(out.String(), "MISS the device ffff:ff:1f.7 is there") {
		t.Errorf("a device that is nowhere: %v: %s", err, out.String())
	}
	for _, args := range [][]string{{"--tee", "snp", "--host-device", "65:00.0"}, {"--host-device", "0000:65:00.0"}, {"--tee", "cca", "--host-device", "0000:65:00.0"}, {"x"}, {"--output", "xml"}, {"--tee", "tpm-sim"}, {"--platform", "/nonexistent"}} {
		out.Reset()
		if err := doctorMain(args, &out); err == nil || errors.Is(err, errNoTEE) || out.Len() > 0 {
			t.Errorf("%v: %v, %s", args, err, out.String())
		}
	}
	if err := doctorMain([]string{"--platform", "/nonexistent"}, &out); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// TestReadyForWhatIsLaunched: a machine that has SGX alone runs no pod.
func TestReadyForWhatIsLaunched(t *testing.T) {
	sgx, snp := &hostcheck.Report{TEE: launch.SGX, Ready: true}, &hostcheck.Report{TEE: launch.SNP}
	if anyReady([]*hostcheck.Report{snp, sgx}, false) || !anyReady([]*hostcheck.Report{sgx}, true) {
		t.Error("SGX counts for who asks about it, and for nobody else")
	}
	snp.Ready = true
	if !anyReady([]*hostcheck.Report{snp, sgx}, false) {
		t.Error("SNP is ready")
	}
}
