package eventlog

import (
	"bytes"
	"fmt"
)

// RTMRs is the number of run-time registers that a confidential computing log
// explains. The log numbers measurement registers from 0, which is the launch
// digest (MRTD); its 1 to 4 are RTMR 0 to 3.
const RTMRs = 4

// ErrRTMR says that a log is not the one that a quote's register was extended
// with.
type ErrRTMR struct {
	Register         int // RTMR, from 0
	Replayed, Quoted []byte
}

func (e *ErrRTMR) Error() string {
	return fmt.Sprintf("event log: RTMR %d replays to %x, the quote says %x", e.Register, e.Replayed, e.Quoted)
}

// ReplayRTMRs gives the registers after all events of a confidential computing
// log. What no run-time register takes is an error, since nothing signed would
// vouch for it: an event of another register, and an EV_NO_ACTION entry with a
// digest in it.
func (l *Log) ReplayRTMRs(a Algorithm) ([RTMRs][]byte, error) {
	var out [RTMRs][]byte
	for i := range l.Events {
		e := &l.Events[i]
		if e.extends() {
			if e.Register < 1 || e.Register > RTMRs {
				return out, fmt.Errorf("event log: entry %d is of measurement register %d, which no quote has", i, e.Register)
			}
			continue
		}
		for _, d := range e.Digests {
			if len(bytes.Trim(d.Sum, "\x00")) != 0 {
				return out, fmt.Errorf("event log: entry %d extends nothing and has a digest", i)
			}
		}
	}
	for i := range out {
		v, err := l.Replay(a, uint32(i)+1)
		if err != nil {
			return out, err
		}
		out[i] = v
	}
	return out, nil
}

// CheckRTMRs replays the log and compares with the registers of a quote; the
// first that differs is an *ErrRTMR.
func (l *Log) CheckRTMRs(a Algorithm, quoted [RTMRs][]byte) error {
	got, err := l.ReplayRTMRs(a)
	if err != nil {
		return err
	}
	for i := range got {
		if !bytes.Equal(got[i], quoted[i]) {
			return &ErrRTMR{Register: i, Replayed: got[i], Quoted: quoted[i]}
		}
	}
	return nil
}

// TrimCC gives the log without the area behind its last entry. It reads the
// entries rather than cut bytes, since an entry may end in 0xff.
func TrimCC(b []byte) ([]byte, error) {
	_, n, err := parseTo(b, true)
	if err != nil {
		return nil, err
	}
	return b[:n:n], nil
}
