package snp

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Evidence is the primary evidence of TEE "snp": the published JSON form, in
// which every byte array is an array of numbers.
type Evidence struct {
	Report *Report
	// Certs is the host's certificate table; nil: it gave none.
	Certs []Cert
	// Simulation says what is not real (addition).
	Simulation string
}

// Cert is one entry of a certificate table.
type Cert struct {
	// Type is one of the names below, or the GUID of an entry with another one.
	Type string
	Data []byte
}

// Types of Cert, as the published form spells them.
const (
	CertEmpty = "Empty"
	CertARK   = "ARK"
	CertASK   = "ASK"
	CertVCEK  = "VCEK"
	CertVLEK  = "VLEK"
	CertCRL   = "CRL"
)

// Parse decodes evidence. An unknown member is an error: it might stand for
// bytes of the report that could not be put back.
func Parse(b []byte) (*Evidence, error) {
	if len(b) > MaxEvidence {
		return nil, fmt.Errorf("snp evidence: %d bytes, at most %d", len(b), MaxEvidence)
	}
	s := &scanner{b: b}
	e := new(Evidence)
	_, err := s.object([]member{
		{"attestation_report", false, func() (err error) { e.Report, err = s.report(); return err }},
		{"cert_chain", true, func() (err error) { e.Certs, err = s.certs(); return err }},
		{"simulation", true, func() (err error) { e.Simulation, err = s.text(maxNote); return err }},
	})
	if err == nil {
		err = s.end()
	}
	if err != nil {
		return nil, fmt.Errorf("snp evidence: %w", err)
	}
	if strings.ContainsAny(e.Simulation, "\r\n") {
		return nil, errors.New("snp evidence: simulation note of several lines")
	}
	return e, nil
}

// ParseReportJSON decodes the JSON form of a report alone.
func ParseReportJSON(b []byte) (*Report, error) {
	if len(b) > MaxEvidence {
		return nil, fmt.Errorf("snp report: %d bytes, at most %d", len(b), MaxEvidence)
	}
	s := &scanner{b: b}
	r, err := s.report()
	if err == nil {
		err = s.end()
	}
	if err != nil {
		return nil, fmt.Errorf("snp report: %w", err)
	}
	return r, nil
}

func (s *scanner) report() (*Report, error) {
	r := new(Report)
	u32 := func(v *uint32) func() error {
		return func() error { n, err := s.uint(math.MaxUint32); *v = uint32(n); return err }
	}
	fixed := func(b []byte) func() error { return func() error { return s.fixed(b) } }
	var fmc [4]presence
	tcb := func(i int, t *TCB) func() error {
		return func() (err error) { *t, fmc[i], err = s.tcb(); return err }
	}
	firmware := func(f *Firmware) func() error { return func() error { return s.firmware(f) } }
	var cpu [3]uint8
	var cpuAt, mitAt [3]presence
	opt8 := func(i int) func() error {
		return func() error { n, p, err := s.option(255); cpu[i], cpuAt[i] = uint8(n), p; return err }
	}
	var mit [2]uint64
	opt64 := func(i int) func() error {
		return func() (err error) { mit[i], mitAt[i], err = s.option(math.MaxUint64); return err }
	}
	_, err := s.object([]member{
		{"version", false, u32(&r.Version)},
		{"guest_svn", false, u32(&r.GuestSVN)},
		{"policy", false, func() error { n, err := s.uint(math.MaxUint64); r.Policy = Policy(n); return err }},
		{"family_id", false, fixed(r.FamilyID[:])},
		{"image_id", false, fixed(r.ImageID[:])},
		{"vmpl", false, u32(&r.VMPL)},
		{"sig_algo", false, u32(&r.SigAlgo)},
		{"current_tcb", false, tcb(0, &r.CurrentTCB)},
		{"plat_info", false, func() error { n, err := s.uint(math.MaxUint64); r.PlatformInfo = PlatformInfo(n); return err }},
		{"key_info", false, func() error { n, err := s.uint(math.MaxUint32); r.KeyInfo = KeyInfo(n); return err }},
		{"report_data", false, fixed(r.ReportData[:])},
		{"measurement", false, fixed(r.Measurement[:])},
		{"host_data", false, fixed(r.HostData[:])},
		{"id_key_digest", false, fixed(r.IDKeyDigest[:])},
		{"author_key_digest", false, fixed(r.AuthorKeyDigest[:])},
		{"report_id", false, fixed(r.ReportID[:])},
		{"report_id_ma", false, fixed(r.ReportIDMA[:])},
		{"reported_tcb", false, tcb(1, &r.ReportedTCB)},
		{"cpuid_fam_id", true, opt8(0)},
		{"cpuid_mod_id", true, opt8(1)},
		{"cpuid_step", true, opt8(2)},
		{"chip_id", false, fixed(r.ChipID[:])},
		{"committed_tcb", false, tcb(2, &r.CommittedTCB)},
		{"current", false, firmware(&r.Current)},
		{"committed", false, firmware(&r.Committed)},
		{"launch_tcb", false, tcb(3, &r.LaunchTCB)},
		{"launch_mit_vector", true, opt64(0)},
		{"current_mit_vector", true, opt64(1)},
		{"signature", false, func() error {
			_, err := s.object([]member{{"r", false, fixed(r.R[:])}, {"s", false, fixed(r.S[:])}})
			return err
		}},
	})
	if err != nil {
		return nil, err
	}
	if r.Version < MinVersion || r.Version > MaxVersion {
		return nil, fmt.Errorf("%w %d", ErrVersion, r.Version)
	}
	mitAt[2] = mitAt[1]
	switch {
	case cpuAt[0] != cpuAt[1] || cpuAt[0] != cpuAt[2]:
		return nil, errors.New("cpuid: family, model and stepping are given in part")
	case (cpuAt[0] == given) != (r.Version >= 3):
		return nil, fmt.Errorf("cpuid: does not go with version %d", r.Version)
	case mitAt[0] != mitAt[1]:
		return nil, errors.New("mitigation vectors are given in part")
	case (mitAt[0] == given) != (r.Version >= 5):
		return nil, fmt.Errorf("mitigation vectors: do not go with version %d", r.Version)
	}
	if cpuAt[0] == given {
		r.CPU = &CPUID{cpu[0], cpu[1], cpu[2]}
	}
	if mitAt[0] == given {
		r.LaunchMit, r.CurrentMit = &mit[0], &mit[1]
	}
	for i := range fmc {
		if fmc[i] != fmc[0] || (fmc[i] == given) != r.expectFMC() {
			return nil, errors.New("fmc: does not go with the processor")
		}
	}
	for _, p := range []struct {
		at  presence
		bit leftOut
	}{{cpuAt[0], leftCPU}, {mitAt[0], leftMit}, {fmc[0], leftFMC}} {
		if p.at == absent {
			r.left |= p.bit
		}
	}
	return r, nil
}

// presence of an optional member.
type presence uint8

const (
	absent presence = iota
	null
	given
)

func (s *scanner) option(limit uint64) (uint64, presence, error) {
	if s.null() {
		return 0, null, nil
	}
	v, err := s.uint(limit)
	return v, given, err
}

func (s *scanner) tcb() (TCB, presence, error) {
	var t TCB
	var p presence
	u8 := func(v *uint8) func() error {
		return func() error { n, err := s.uint(255); *v = uint8(n); return err }
	}
	_, err := s.object([]member{
		{"fmc", true, func() error {
			n, at, err := s.option(255)
			t.FMC, t.WithFMC, p = uint8(n), at == given, at
			return err
		}},
		{"bootloader", false, u8(&t.Bootloader)},
		{"tee", false, u8(&t.TEE)},
		{"snp", false, u8(&t.SNP)},
		{"microcode", false, u8(&t.Microcode)},
	})
	return t, p, err
}

func (s *scanner) firmware(f *Firmware) error {
	u8 := func(v *uint8) func() error {
		return func() error { n, err := s.uint(255); *v = uint8(n); return err }
	}
	_, err := s.object([]member{{"major", false, u8(&f.Major)}, {"minor", false, u8(&f.Minor)}, {"build", false, u8(&f.Build)}})
	return err
}

func (s *scanner) certs() ([]Cert, error) {
	if s.null() {
		return nil, nil
	}
	out := make([]Cert, 0, 4)
	err := s.list(func(int) error {
		if len(out) == MaxCerts {
			return s.errorf("more than %d certificates", MaxCerts)
		}
		var c Cert
		_, err := s.object([]member{
			{"cert_type", false, func() (err error) { c.Type, err = s.certType(); return err }},
			{"data", false, func() (err error) { c.Data, err = s.bytes(MaxCert); return err }},
		})
		out = append(out, c)
		return err
	})
	return out, err
}

func (s *scanner) certType() (string, error) {
	if s.next() == '{' {
		var id string
		_, err := s.object([]member{{"OTHER", false, func() (err error) { id, err = s.name(); return err }}})
		if err == nil && !isGUID(id) {
			err = s.errorf("not a GUID")
		}
		return id, err
	}
	n, err := s.name()
	if err != nil {
		return "", err
	}
	switch n {
	case CertEmpty, CertARK, CertASK, CertVCEK, CertVLEK, CertCRL:
		return n, nil
	}
	return "", s.errorf("unknown type of certificate %q", n)
}

// Encode gives the published form.
func (e *Evidence) Encode() ([]byte, error) {
	switch {
	case e.Report == nil:
		return nil, errors.New("snp evidence: no report")
	case len(e.Certs) > MaxCerts:
		return nil, fmt.Errorf("snp evidence: %d certificates, at most %d", len(e.Certs), MaxCerts)
	case len(e.Simulation) > maxNote || strings.ContainsAny(e.Simulation, "\r\n"):
		return nil, errors.New("snp evidence: simulation note too long or of several lines")
	}
	b := append(make([]byte, 0, 16<<10), `{"attestation_report":`...)
	b = e.Report.AppendJSON(b)
	b = append(b, `,"cert_chain":`...)
	if e.Certs == nil {
		b = append(b, "null"...)
	} else {
		b = append(b, '[')
		for i, c := range e.Certs {
			if len(c.Data) > MaxCert {
				return nil, fmt.Errorf("snp evidence: certificate of %d bytes, at most %d", len(c.Data), MaxCert)
			}
			if i > 0 {
				b = append(b, ',')
			}
			b = append(b, `{"cert_type":`...)
			if isGUID(c.Type) {
				b = append(append(append(b, `{"OTHER":"`...), c.Type...), `"}`...)
			} else {
				b = strconv.AppendQuote(b, c.Type)
			}
			b = append(appendArray(append(b, `,"data":`...), c.Data), '}')
		}
		b = append(b, ']')
	}
	if e.Simulation != "" {
		q, err := json.Marshal(e.Simulation)
		if err != nil {
			return nil, fmt.Errorf("snp evidence: %w", err)
		}
		b = append(append(b, `,"simulation":`...), q...)
	}
	return append(b, '}'), nil
}

// AppendJSON appends the published form of a report.
func (r *Report) AppendJSON(b []byte) []byte {
	num := func(name string, v uint64) { b = strconv.AppendUint(appendName(b, name), v, 10) }
	arr := func(name string, v []byte) { b = appendArray(appendName(b, name), v) }
	tcb := func(name string, t TCB) {
		b = append(appendName(b, name), '{')
		if t.WithFMC {
			num("fmc", uint64(t.FMC))
		} else if r.left&leftFMC == 0 {
			b = append(appendName(b, "fmc"), "null"...)
		}
		num("bootloader", uint64(t.Bootloader))
		num("tee", uint64(t.TEE))
		num("snp", uint64(t.SNP))
		num("microcode", uint64(t.Microcode))
		b = append(b, '}')
	}
	firmware := func(name string, f Firmware) {
		b = append(appendName(b, name), '{')
		num("major", uint64(f.Major))
		num("minor", uint64(f.Minor))
		num("build", uint64(f.Build))
		b = append(b, '}')
	}
	option := func(name string, bit leftOut, v *uint64) {
		if v != nil {
			num(name, *v)
		} else if r.left&bit == 0 {
			b = append(appendName(b, name), "null"...)
		}
	}
	b = append(b, '{')
	num("version", uint64(r.Version))
	num("guest_svn", uint64(r.GuestSVN))
	num("policy", uint64(r.Policy))
	arr("family_id", r.FamilyID[:])
	arr("image_id", r.ImageID[:])
	num("vmpl", uint64(r.VMPL))
	num("sig_algo", uint64(r.SigAlgo))
	tcb("current_tcb", r.CurrentTCB)
	num("plat_info", uint64(r.PlatformInfo))
	num("key_info", uint64(r.KeyInfo))
	arr("report_data", r.ReportData[:])
	arr("measurement", r.Measurement[:])
	arr("host_data", r.HostData[:])
	arr("id_key_digest", r.IDKeyDigest[:])
	arr("author_key_digest", r.AuthorKeyDigest[:])
	arr("report_id", r.ReportID[:])
	arr("report_id_ma", r.ReportIDMA[:])
	tcb("reported_tcb", r.ReportedTCB)
	var cpu [3]*uint64
	if r.CPU != nil {
		for i, v := range []uint8{r.CPU.Family, r.CPU.Model, r.CPU.Stepping} {
			n := uint64(v)
			cpu[i] = &n
		}
	}
	option("cpuid_fam_id", leftCPU, cpu[0])
	option("cpuid_mod_id", leftCPU, cpu[1])
	option("cpuid_step", leftCPU, cpu[2])
	arr("chip_id", r.ChipID[:])
	tcb("committed_tcb", r.CommittedTCB)
	firmware("current", r.Current)
	firmware("committed", r.Committed)
	tcb("launch_tcb", r.LaunchTCB)
	option("launch_mit_vector", leftMit, r.LaunchMit)
	option("current_mit_vector", leftMit, r.CurrentMit)
	b = append(appendName(b, "signature"), '{')
	arr("r", r.R[:])
	arr("s", r.S[:])
	return append(b, "}}"...)
}

func appendName(b []byte, name string) []byte {
	if b[len(b)-1] != '{' {
		b = append(b, ',')
	}
	return append(append(append(b, '"'), name...), '"', ':')
}

func appendArray(b, v []byte) []byte {
	b = append(b, '[')
	for i, x := range v {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendUint(b, uint64(x), 10)
	}
	return append(b, ']')
}
