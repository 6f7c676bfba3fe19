package intel

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/cofferproject/coffer/tee/intel/quote"
	"github.com/cofferproject/coffer/tee/verify"
)

// outcome is the converged level of platform, QE and TDX module: the worst
// status, all advisories; the date is the platform's, as published.
type outcome struct {
	level
}

func (o *outcome) merge(l *level) {
	o.Advisories = append(o.Advisories, l.Advisories...)
	o.Status = o.Status.with(l.Status)
}

func (o *outcome) sort() {
	slices.Sort(o.Advisories)
	o.Advisories = slices.Compact(o.Advisories)
}

// tcb is what evaluate concludes.
type tcb struct {
	launch outcome
	// current is the level by TEE_TCB_SVN2; nil where it is not given.
	current *outcome
}

// evaluate finds the TCB levels of platform, TDX module and QE.
func (v *Verifier) evaluate(q *quote.Quote, c *pckChain, d *documents, r *Verdict) (*tcb, error) {
	origin := c.base.tcbInfo(q.TEE(), c.pck.FMSPC)
	if err := d.tcb.applies(c.pck, q.TEE(), origin); err != nil {
		return nil, err
	}
	qe, err := d.qe.evaluate(q, c.base.qeIdentity(q.TEE()))
	if err != nil {
		return nil, err
	}
	t := new(tcb)
	var svn [16]byte
	if q.TD != nil {
		svn = q.TD.TCBSVN
	}
	mod, err := d.tcb.converge(&t.launch, c.pck, q.TD, svn, qe, origin)
	if err != nil {
		return nil, err
	}
	if q.TD != nil && q.TD.V15 != nil && slices.Contains(v.cfg.AllowUnproven, UnprovenRelaunch) {
		r.Unproven = append(r.Unproven, UnprovenRelaunch)
		if err := d.tcb.relaunch(t, c.pck, q.TD, qe, mod, origin); err != nil {
			return nil, err
		}
	}
	if t.launch.Status == StatusRevoked {
		return nil, verify.Mismatch(ReasonTCBRevoked, Component, "TCB status", string(StatusRevoked), "a level that Intel has not revoked", origin)
	}
	t.launch.sort()
	r.Status = t.launch.Status
	r.Checks = append(r.Checks, verify.Check{What: "TCB status", Found: string(r.Status), Source: origin})
	return t, nil
}

// applies: TCB information of this kind of platform.
func (t *tcbInfo) applies(p *PCK, tee uint32, origin string) error {
	want := "SGX"
	if tee == quote.TDX {
		want = "TDX"
	}
	for _, c := range []struct{ name, is, want string }{
		{"id", t.ID, want}, {"FMSPC", hex.EncodeToString(t.FMSPC), hex.EncodeToString(p.FMSPC[:])}, {"PCEID", hex.EncodeToString(t.PCEID), hex.EncodeToString(p.PCEID[:])},
	} {
		if c.is != c.want {
			return verify.Mismatch(ReasonTCBMismatch, Component, "TCB information: "+c.name, c.is, c.want, origin)
		}
	}
	return nil
}

// converge fills o and gives the TDX module's own level, if it has one.
func (t *tcbInfo) converge(o *outcome, p *PCK, td *quote.TD, svn [16]byte, qe *level, origin string) (*level, error) {
	l := t.match(p, td != nil, svn)
	if l == nil {
		return nil, verify.Mismatch(ReasonTCBUnsupported, Component, "TCB level of the platform",
			fmt.Sprintf("SGX %x, PCE %d, TDX %x", p.SVN, p.PCESVN, svn), "at least the lowest published", origin)
	}
	o.level = l.level
	o.Advisories = slices.Clone(l.Advisories)
	o.merge(qe)
	if td == nil {
		return nil, nil
	}
	mod, err := t.moduleLevel(td, svn, origin)
	if err != nil {
		return nil, err
	}
	if mod != nil {
		o.merge(mod)
	}
	return mod, nil
}

// match gives the highest level that the platform reaches. From TDX module
// version 1 on, the module's own SVNs are judged by its identity.
func (t *tcbInfo) match(p *PCK, tdx bool, svn [16]byte) *platformLevel {
	first := 0
	if svn[1] > 0 {
		first = 2
	}
	for i := range t.Levels {
		l := &t.Levels[i]
		if reaches(p.SVN[:], l.TCB.SGX) && p.PCESVN >= *l.TCB.PCESVN && (!tdx || reaches(svn[first:], l.TCB.TDX[first:])) {
			return l
		}
	}
	return nil
}

func reaches(have []uint8, want []component) bool {
	for i, c := range want {
		if have[i] < *c.SVN {
			return false
		}
	}
	return true
}

// moduleLevel checks who signed the TDX module, and gives its level.
func (t *tcbInfo) moduleLevel(td *quote.TD, svn [16]byte, origin string) (*level, error) {
	m := t.Module
	if svn[1] > 0 {
		if m = t.identity(svn[1]); m == nil {
			return nil, verify.Mismatch(ReasonModuleMismatch, Component, "TDX module", fmt.Sprintf("version %d", svn[1]), "a version with a published identity", origin)
		}
	}
	for _, c := range []struct {
		name           string
		is, mask, want []byte
	}{{"MRSIGNERSEAM", td.MRSignerSEAM[:], nil, m.MRSigner}, {"SEAM attributes", td.SEAMAttributes[:], m.AttributesMask, m.Attributes}} {
		if !masked(c.is, c.mask, c.want) {
			return nil, verify.Mismatch(ReasonModuleMismatch, Component, "TDX module: "+c.name, hex.EncodeToString(c.is), hex.EncodeToString(c.want), origin)
		}
	}
	if svn[1] == 0 {
		return nil, nil
	}
	l := reached(m.Levels, uint16(svn[0]))
	if l == nil {
		return nil, verify.Mismatch(ReasonTCBUnsupported, Component, "TDX module: SVN", fmt.Sprint(svn[0]), "at least the lowest published", origin)
	}
	return l, nil
}

func (t *tcbInfo) identity(version uint8) *module {
	want := fmt.Sprintf("TDX_%02X", version)
	for i := range t.Modules {
		if strings.EqualFold(t.Modules[i].ID, want) {
			return &t.Modules[i]
		}
	}
	return nil
}

// relaunch fills in the level by the SVNs of today. A TD whose module was
// replaced by a current one since it was launched is better off launched anew,
// which is said instead of "out of date".
func (t *tcbInfo) relaunch(out *tcb, p *PCK, td *quote.TD, qe, mod *level, origin string) error {
	now := td.V15.TCBSVN2
	out.current = new(outcome)
	if _, err := t.converge(out.current, p, td, now, qe, origin); err != nil {
		return err
	}
	if out.current.Status == StatusRevoked {
		return verify.Mismatch(ReasonTCBRevoked, Component, "TCB status now", string(StatusRevoked), "a level that Intel has not revoked", origin)
	}
	out.current.sort()
	sgx := t.match(p, false, now)
	if !out.launch.Status.outOfDate() || qe.Status != StatusUpToDate || mod == nil || mod.Status != StatusOutOfDate || sgx == nil || sgx.Status.outOfDate() || sgx.Status == StatusRevoked {
		return nil
	}
	latest := &t.Levels[0]
	want := *latest.TCB.TDX[0].SVN
	if now[1] > 0 {
		m := t.identity(now[1]) // converge has found it
		if s := *m.Levels[0].TCB.ISVSVN; uint16(now[0]) < s {
			return nil
		}
		want = 0
	}
	if now[0] < want || now[2] < *latest.TCB.TDX[2].SVN {
		return nil
	}
	if out.launch.Status.needsConfiguration() || sgx.Status.needsConfiguration() {
		out.launch.Status = StatusRelaunchConfiguration
	} else {
		out.launch.Status = StatusRelaunchAdvised
	}
	return nil
}

// evaluate checks the QE against its identity and gives its level.
func (e *qeIdentity) evaluate(q *quote.Quote, origin string) (*level, error) {
	want := "QE"
	if q.TEE() == quote.TDX {
		want = "TD_QE"
	}
	bad := func(name, is, want string) error {
		return verify.Mismatch(ReasonQEIdentity, Component, "QE "+name, is, want, origin)
	}
	if e.ID != want {
		return nil, bad("identity", e.ID, want)
	}
	r := q.QEReport
	attributes := slices.Concat(r.Flags[:], r.XFRM[:])
	for _, c := range []struct {
		name           string
		is, mask, want []byte
	}{
		{"MISCSELECT", r.MiscSelect[:], e.MiscMask, e.MiscSelect}, {"ATTRIBUTES", attributes, e.AttributesMask, e.Attributes},
		{"MRSIGNER", r.MRSigner[:], nil, e.MRSigner}, {"ISVPRODID", r.ISVProdID[:], nil, binary.LittleEndian.AppendUint16(nil, *e.ISVProdID)},
	} {
		if !masked(c.is, c.mask, c.want) {
			return nil, bad(c.name, hex.EncodeToString(c.is), hex.EncodeToString(c.want))
		}
	}
	svn := binary.LittleEndian.Uint16(r.ISVSVN[:])
	l := reached(e.Levels, svn)
	if l == nil {
		return nil, verify.Mismatch(ReasonTCBUnsupported, Component, "QE ISVSVN", fmt.Sprint(svn), "at least the lowest published", origin)
	}
	return l, nil
}

// reached gives the highest level that svn reaches; levels come sorted, highest first.
func reached(levels []svnLevel, svn uint16) *level {
	for i := range levels {
		if svn >= *levels[i].TCB.ISVSVN {
			return &levels[i].level
		}
	}
	return nil
}

// masked compares is AND mask with want; nil: all bits.
func masked(is, mask, want []byte) bool {
	if mask == nil {
		return bytes.Equal(is, want)
	}
	if len(is) != len(want) || len(is) != len(mask) {
		return false
	}
	for i := range is {
		if is[i]&mask[i] != want[i] {
			return false
		}
	}
	return true
}
