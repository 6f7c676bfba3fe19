package run

import (
	"testing"

	"github.com/cofferproject/coffer/api/initdata"
)

func TestSealedPodHasWhatIsAskedFor(t *testing.T) {
	doc := func(aa string) *initdata.Document {
		return &initdata.Document{Data: map[string]string{initdata.KeyAA: aa}}
	}
	sealed, other := doc("additional_devices = ['nvidia']\nbind_channel = true\nidentities = ['web']"), doc("")
	for name, o := range map[string]PodOptions{"nothing": {}, "device": {Devices: []string{"nvidia"}}, "channel": {BindChannel: true}, "identity": {Identities: []string{"web"}}} {
		if err := demands(sealed, &o); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, d := range []*initdata.Document{other, {}} {
			if err := demands(d, &o); (err == nil) != (name == "nothing") {
				t.Errorf("%s is left out in silence: %v", name, err)
			}
		}
	}
	if demands(sealed, &PodOptions{Devices: []string{"nvidia", "hygondcu"}}) == nil || demands(sealed, &PodOptions{Identities: []string{"web", "db"}}) == nil {
		t.Error("one of two that the sealed pod does not have is left out in silence")
	}
	if demands(doc("additional_devices = 1"), &PodOptions{}) == nil || demands(doc("identities = 1"), &PodOptions{BindChannel: true}) == nil {
		t.Error("a broken list is no list")
	}
}
