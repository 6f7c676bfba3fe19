package teedev

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/guest/boot"
	"github.com/cofferproject/coffer/tee/attest"
)

type attester struct{ tee string }

func (a *attester) TEE() string                     { return a.tee }
func (a *attester) RequestExtra() *kbs.RequestExtra { return nil }
func (a *attester) Close() error                    { return nil }
func (a *attester) Evidence(context.Context, []byte, *kbs.TPMChallenge) (json.RawMessage, error) {
	return nil, nil
}

type bound struct{ attester }

func (*bound) InitdataRegister(context.Context) ([]byte, error) { return make([]byte, 32), nil }

func TestNoSilentFallback(t *testing.T) {
	absent := Opener{"snp", func(*slog.Logger) (attest.Attester, error) { return nil, fmt.Errorf("x: %w", attest.ErrNotPresent) }}
	broken := Opener{"tdx", func(*slog.Logger) (attest.Attester, error) { return nil, errors.New("device is broken") }}
	works := Opener{"cca", func(*slog.Logger) (attest.Attester, error) { return &bound{attester{"cca"}}, nil }}
	unbound := Opener{"csv", func(*slog.Logger) (attest.Attester, error) { return &attester{"csv"}, nil }}
	log := slog.New(slog.DiscardHandler)
	for _, c := range []struct {
		name string
		list []Opener
		tee  string
		err  string
	}{
		{"second", []Opener{absent, works, broken}, "cca", ""},
		{"broken stops", []Opener{absent, broken, works}, "", "opening tdx: device is broken"},
		{"none", []Opener{absent}, "", "no TEE"},
	} {
		a, err := open(log, c.list)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if err != nil || a.TEE() != c.tee {
			t.Errorf("%s: %v, %v", c.name, a, err)
		}
	}
	if r, err := register(log, []Opener{absent}); r != nil || err != nil {
		t.Errorf("no TEE: %v, %v", r, err)
	}
	if _, err := register(log, []Opener{absent, broken, works}); err == nil {
		t.Error("a broken device was passed over")
	}
	if _, err := register(log, []Opener{unbound}); err == nil {
		t.Error("a TEE without a register was taken for none")
	}
	r, err := register(log, []Opener{works})
	if l, ok := r.(*boot.LaunchBound); !ok || err != nil || l.TEE() != "cca" {
		t.Errorf("%v, %v", r, err)
	}
}
