package run

import (
	"testing"

	"github.com/cofferproject/coffer/api/initdata"
)

func TestSealedPodDemandsDevices(t *testing.T) {
	doc := func(aa string) *initdata.Document {
		return &initdata.Document{Data: map[string]string{initdata.KeyAA: aa}}
	}
	sealed := doc("additional_devices = ['nvidia']")
	for _, devices := range [][]string{nil, {"nvidia"}} {
		if err := demands(sealed, devices); err != nil {
			t.Errorf("%v: %v", devices, err)
		}
	}
	if demands(sealed, []string{"nvidia", "hygondcu"}) == nil || demands(doc(""), []string{"nvidia"}) == nil {
		t.Error("a device that the sealed pod does not demand is left out in silence")
	}
	if demands(doc("additional_devices = 1"), nil) == nil {
		t.Error("a broken list is no list")
	}
}
