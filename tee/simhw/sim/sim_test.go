package sim

import (
	"bytes"
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/simhw"
	"github.com/cofferproject/coffer/tee/attest"
)

// hardware answers like coffer-simhw.
func hardware(c net.Conn) {
	for {
		q, err := simhw.ReadRequest(c)
		if err != nil {
			return
		}
		a := &simhw.Response{ID: q.ID}
		switch q.Op {
		case simhw.OpHello:
			a.Payload = []byte(`{"tee":"snp","provider":"sev_guest","note":"simulated"}`)
		case simhw.OpReport:
			a.Payload = simhw.JoinBlobs(append([]byte("over "), q.Payload...), []byte("table"))
		case simhw.OpEventLog:
			a.Status, a.Payload = simhw.Unsupported, []byte("no log")
		case simhw.OpNSM:
			continue // silence
		default:
			a.Status, a.Payload = simhw.Failed, []byte("broken\x1b[31m")
		}
		b, _ := a.Encode()
		if _, err := c.Write(b); err != nil {
			return
		}
	}
}

func TestDevice(t *testing.T) {
	ours, theirs := net.Pipe()
	go hardware(theirs)
	ctx := context.Background()
	d, err := New(ctx, ours)
	if err != nil {
		t.Fatal(err)
	}
	if d.TEE() != "snp" || d.Provider() != "sev_guest" || d.Note() != "simulated" {
		t.Errorf("hello: %+v", d.hello)
	}
	out, aux, err := d.Report(ctx, []byte("nonce"))
	if err != nil || !bytes.Equal(out, []byte("over nonce")) || string(aux) != "table" {
		t.Errorf("%q %q %v", out, aux, err)
	}
	if _, err := d.EventLog(ctx); !errors.Is(err, attest.ErrUnsupported) {
		t.Errorf("event log: %v", err)
	}
	if _, err := d.Read(ctx, 2); err == nil || bytes.ContainsRune([]byte(err.Error()), 0x1b) {
		t.Errorf("read: %v", err)
	}
	if err := d.Extend(ctx, 256, nil); !errors.Is(err, attest.ErrUnsupported) {
		t.Errorf("register 256: %v", err)
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := d.NSM(short, []byte("x")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("silence: %v", err)
	}
	if _, _, err := d.Report(ctx, nil); err == nil {
		t.Error("works on after an answer that never came")
	}
}
