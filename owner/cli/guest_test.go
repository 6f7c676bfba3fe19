package cli

import (
	"bytes"
	"strings"
	"testing"

	apiplatform "github.com/cofferproject/coffer/api/platform"
	"github.com/cofferproject/coffer/api/refvalue"
)

func guestBundle() *refvalue.Bundle {
	set := func(image string, mem int, kernel byte) refvalue.Set {
		return refvalue.Set{TEE: "tpm-sim", Image: image, MemoryMiB: mem, Events: []refvalue.Event{
			{PCR: 0, Type: refvalue.EFIPlatformFirmwareBlob, Digest: refvalue.Digest{1}, VCPUs: 1},
			{PCR: 0, Type: refvalue.EFIPlatformFirmwareBlob, Digest: refvalue.Digest{2}, VCPUs: 2},
			{PCR: 4, Type: refvalue.EFIBootServicesApp, Digest: refvalue.Digest{kernel}},
		}}
	}
	return &refvalue.Bundle{Version: 1, Sets: []refvalue.Set{
		set("release", 256, 1), set("release", 512, 2), set("release", 1024, 2), set("debug", 256, 1),
	}}
}

func TestGuestMeasurementsOfEqualSizesShareARow(t *testing.T) {
	rows := summarise(guestBundle())
	if len(rows) != 3 || len(rows[1].MemoryMiB) != 2 || rows[1].MemoryMiB[1] != 1024 || rows[2].Image != "debug" {
		t.Fatalf("rows are %+v", rows)
	}
	if want := refvalue.Replay(guestBundle().Sets[0].For(1), 0).String(); rows[0].PCR0 != want {
		t.Errorf("PCR 0 is %s, want that of one vCPU, %s", rows[0].PCR0, want)
	}
}

func TestGuestReportWarnsOfDebugImages(t *testing.T) {
	r := &GuestBuildReport{Platform: "p.json", Measurements: "m.json", Rows: summarise(guestBundle())}
	var out bytes.Buffer
	p := &apiplatform.Platform{Images: map[string]apiplatform.Image{"release": {}, "debug": {}}}
	if err := r.print(&out, p); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"512-1024", "SIMULATED", "WARNING: debug is a DEBUG image", "m.json"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing from\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "WARNING: release") {
		t.Error("a release image is called a debug image")
	}
}
