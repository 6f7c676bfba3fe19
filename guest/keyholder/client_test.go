package keyholder

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptrace"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/guest/clock"
	"github.com/cofferproject/coffer/test/fakekbs"
)

// clientOf is a client of k that knows no signed time yet.
func clientOf(t *testing.T, k *fakekbs.KBS) (*client, *clock.Clock) {
	t.Helper()
	clk, err := clock.New(floor)
	if err != nil {
		t.Fatal(err)
	}
	c, err := newClient(k.URL, k.CAPEM(), clk, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return c, clk
}

// A connection from before the signed time goes on if its certificate passes then.
func TestConnectionsAreHeldToTheSignedTime(t *testing.T) {
	for after, want := range map[time.Duration]bool{30 * 24 * time.Hour: true, 400 * 24 * time.Hour: false} {
		begin := floor.AddDate(0, 1, 0)
		k := fakekbs.Start(t, nil, begin, begin.AddDate(1, 0, 0))
		c, clk := clientOf(t, k)
		get := func() (reused bool, err error) {
			ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused }})
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, k.URL+"/kbs/v0/nothing", nil)
			if err != nil {
				t.Fatal(err)
			}
			rsp, err := c.http.Do(req)
			if err != nil {
				return reused, err
			}
			_, _ = io.Copy(io.Discard, rsp.Body)
			return reused, rsp.Body.Close()
		}
		if reused, err := get(); err != nil || reused {
			t.Fatalf("first request: reused %t, %v", reused, err)
		}
		if err := clk.Observe(begin.Add(after)); err != nil {
			t.Fatal(err)
		}
		c.checkServersAgain()
		reused, err := get()
		if reused != want || (err == nil) != want {
			t.Errorf("%s after the certificate's begin: reused %t, %v", after, reused, err)
		}
		if d, ok := denial.As(err); !want && (!ok || d.Reason != ReasonKBSUntrusted) {
			t.Errorf("a server whose certificate has ended: %v, want %s", err, ReasonKBSUntrusted)
		}
	}
}

// endingTEE has the time of the attestation end at its second evidence.
type endingTEE struct {
	fakeTEE
	asked *int
	end   func()
	fails bool
}

func (e endingTEE) Evidence(ctx context.Context, rd []byte, ch *kbs.TPMChallenge) (json.RawMessage, error) {
	if *e.asked++; *e.asked == 2 {
		e.end()
		if e.fails {
			return nil, ctx.Err()
		}
	}
	return e.fakeTEE.Evidence(ctx, rd, ch)
}

// Who has tried until the end is told what the trustee said, not that the end came.
func TestTheEndOfATryHidesNoRefusal(t *testing.T) {
	for _, fails := range []bool{true, false} { // the evidence, or sending it
		k := simpleKBS(t)
		k.Lacking = 1
		c, _ := clientOf(t, k)
		life, end := context.WithCancel(t.Context())
		defer end()
		asked := 0
		c.tee = start(func() (Attester, error) { return endingTEE{asked: &asked, end: end, fails: fails}, nil })
		c.life, c.attestTimeout = life, time.Minute
		_, err := c.session(t.Context(), nil)
		if d, ok := denial.As(err); !ok || d.Reason != reasonCollateralMissing || errors.Is(err, context.Canceled) {
			t.Errorf("%v after %d tries", err, asked)
		}
	}
}
