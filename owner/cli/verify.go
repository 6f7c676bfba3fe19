package cli

import (
	"crypto"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/platform"
	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/owner/evidence"
	"github.com/cofferproject/coffer/owner/run"
	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/policy"
	"github.com/cofferproject/coffer/tee/verifiers"
)

// verifyFlags are the flags of verify that name files.
type verifyFlags struct {
	initdata, reportData, requestExtra, policy, time, owner string
	platform                                                string
	collateral, references, simulated, ekRoots, anchors     []string
}

// NewVerifyCommand judges an evidence file offline.
func NewVerifyCommand() *cobra.Command {
	var f verifyFlags
	var o evidence.Options
	cmd := &cobra.Command{
		Use:   "verify EVIDENCE",
		Short: "Verify an evidence file offline: claims, checks, trust vector and why it is what it is",
		Long: `Verify the evidence of any TEE offline, with the trustee's own verifiers and
policies, and print what it proves. EVIDENCE is the published JSON ("-" is
standard input), or a bare SGX or TDX quote or CCA token.

Nothing is fetched: certificates, revocation lists and TCB information come from
--collateral. Without --report-data the file may be a recording of anybody's; this
is no attestation.

Exit codes: 0 affirmed by the policy; 126 genuine, but not affirmed; 123 refused.`,
		Example: `  coffer verify evidence.json --tee snp --collateral amd.json --reference-values measurements.json
  coffer verify quote.dat --time 2025-06-01T00:00:00Z --insecure-skip-revocation -o json`,
		Args: exactArgs(1, "the evidence file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			file, err := readFile(args[0], cmd.InOrStdin(), evidence.MaxSize)
			if err == nil {
				err = f.load(&o)
			}
			if err != nil {
				return Exit(ExitInput, err)
			}
			r, err := evidence.Judge(cmd.Context(), file, &o)
			if err != nil {
				return Exit(ExitInput, err)
			}
			return printReport(cmd, r)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&o.TEE, "tee", "", "wire name of the TEE (default: by the shape of the evidence): "+strings.Join(verifiers.Names(false), ", "))
	fl.StringVar(&f.initdata, "initdata", "", "the plain initdata document that must have been measured")
	fl.StringVar(&f.reportData, "report-data", "", "hex of the runtime data's hash that the evidence must be bound to")
	fl.StringVar(&f.requestExtra, "request-extra", "", "file with extra-params of the session's request (TPM)")
	fl.StringArrayVar(&f.collateral, "collateral", nil, "collateral bundle, or a folder of them (repeatable)")
	fl.StringArrayVar(&f.references, "reference-values", nil, "reference values: a bundle, signed or not, or a JSON object of names (repeatable)")
	fl.StringVar(&f.owner, "owner-key", "", "public key (PEM) that signed bundles must be signed with")
	fl.StringVar(&f.policy, "policy", "", "appraisal policy in Rego (default: the embedded one)")
	fl.StringVar(&f.time, "time", "", "judge by this time, RFC 3339 (default: now)")
	fl.StringSliceVar(&o.AllowUnproven, "allow-unproven", nil, "verifiers or versions that count although no outside vector has shown them to be right")
	fl.StringArrayVar(&f.simulated, "simulated-root", nil, "certificate (PEM) of a machine that plays hardware: judge as in a simulated namespace (repeatable)")
	fl.StringArrayVar(&f.ekRoots, "ek-root", nil, "root certificate (PEM) of TPM endorsement keys (repeatable)")
	fl.StringArrayVar(&f.anchors, "anchor", nil, "TEE/NAME=FILE: a document that the TEE's verifier needs, such as cca/trust-anchors=tastore.json (repeatable)")
	fl.StringVar(&f.platform, "platform", "", "platform whose guest images and firmware are tried where a launch is not affirmed (default: that of coffer run, if it is there)")
	fl.BoolVar(&o.InsecureSkipRevocation, "insecure-skip-revocation", false, "judge certificates without revocation lists")
	fl.BoolVar(&o.InsecureExpiredCollateral, "insecure-expired-collateral", false, "take collateral that is past its next update")
	fl.BoolVar(&o.InsecureUnboundReport, "insecure-unbound-report", false, "take Azure evidence of versions 0 and 1, whose hardware report may be of an earlier boot")
	fl.BoolVar(&o.InsecureSample, "insecure-sample", false, "take samples, which anybody can make")
	return cmd
}

// readFile reads a file, or standard input for "-".
func readFile(name string, stdin io.Reader, limit int64) ([]byte, error) {
	r := stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		r = f
	}
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s: more than %d bytes", name, limit)
	}
	return b, nil
}

// load reads the files that the flags name.
func (f *verifyFlags) load(o *evidence.Options) (err error) {
	o.Now = time.Now()
	if err := f.loadPlatform(o); err != nil {
		return err
	}
	if f.time != "" {
		if o.Now, err = time.Parse(time.RFC3339, f.time); err != nil {
			return fmt.Errorf("--time: %w", err)
		}
	}
	if f.reportData != "" {
		if o.ReportData, err = hex.DecodeString(f.reportData); err != nil || len(o.ReportData) < 32 || len(o.ReportData) > 64 {
			return errors.New("--report-data: not 32 to 64 bytes in hex")
		}
	}
	if f.initdata != "" {
		if o.Initdata, err = readFile(f.initdata, nil, initdata.MaxPlain); err != nil {
			return err
		}
	}
	if f.requestExtra != "" {
		if o.RequestExtra, err = readFile(f.requestExtra, nil, 64<<10); err != nil {
			return err
		}
	}
	if f.policy != "" {
		b, err := readFile(f.policy, nil, policy.MaxSize)
		if err != nil {
			return err
		}
		o.Policy = string(b)
	}
	if err := f.loadReferences(o); err != nil {
		return err
	}
	if o.SimulatedRoots, err = readCerts(f.simulated); err != nil {
		return fmt.Errorf("--simulated-root: %w", err)
	}
	if o.EKRoots, err = readCerts(f.ekRoots); err != nil {
		return fmt.Errorf("--ek-root: %w", err)
	}
	for _, a := range f.anchors {
		name, file, ok := strings.Cut(a, "=")
		tee, name, ok2 := strings.Cut(name, "/")
		if !ok || !ok2 {
			return fmt.Errorf("--anchor %q: not TEE/NAME=FILE", a)
		}
		b, err := readFile(file, nil, 1<<20)
		if err != nil {
			return err
		}
		if o.Anchors == nil {
			o.Anchors = map[string]map[string][]byte{}
		}
		if o.Anchors[tee] == nil {
			o.Anchors[tee] = map[string][]byte{}
		}
		o.Anchors[tee][name] = b
	}
	return f.loadCollateral(o)
}

func (f *verifyFlags) loadCollateral(o *evidence.Options) error {
	var items []*collateral.Item
	for _, path := range f.collateral {
		files := []string{path}
		if st, err := os.Stat(path); err == nil && st.IsDir() {
			if files, err = filepath.Glob(filepath.Join(path, "*.json")); err != nil {
				return err
			}
		}
		for _, name := range files {
			b, err := readFile(name, nil, collateral.MaxBundle)
			if err != nil {
				return err
			}
			s, err := collateral.Parse(b)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			items = append(items, s.Items()...)
		}
	}
	if len(items) > 0 {
		o.Collateral = collateral.NewSet(items...)
	}
	return nil
}

func (f *verifyFlags) loadReferences(o *evidence.Options) error {
	for _, name := range f.references {
		b, err := readFile(name, nil, refvalue.MaxSize)
		if err != nil {
			return err
		}
		if err := f.reference(o, b); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if len(o.ReferenceNames) < len(o.References) {
			o.ReferenceNames = append(o.ReferenceNames, name)
		}
	}
	return nil
}

// loadPlatform reads the platform that is named, or leaves the usual one to be
// read where it is of use.
func (f *verifyFlags) loadPlatform(o *evidence.Options) error {
	if f.platform == "" {
		o.Platform = func() *platform.Platform {
			p, err := platform.Load(run.DefaultPlatform())
			if err != nil {
				return nil // it explains only; without it less is explained
			}
			return p
		}
		return nil
	}
	p, err := platform.Load(f.platform)
	if err != nil {
		return fmt.Errorf("--platform: %w", err)
	}
	o.Platform = func() *platform.Platform { return p }
	return nil
}

// reference takes a bundle, or what others register: an object of names.
func (f *verifyFlags) reference(o *evidence.Options, b []byte) error {
	var bundle *refvalue.Bundle
	switch {
	case refvalue.IsSigned(b):
		s, err := refvalue.ParseSigned(string(b))
		if err != nil {
			return err
		}
		if f.owner == "" {
			return errors.New("the bundle is signed: say with --owner-key whose signature counts")
		}
		key, err := readFile(f.owner, nil, 64<<10)
		if err != nil {
			return err
		}
		pub, err := parsePublicKey(key)
		if err != nil {
			return err
		}
		if err := s.Verify(pub); err != nil {
			return err
		}
		bundle = s.Bundle
	default:
		var m map[string]any
		d := json.NewDecoder(strings.NewReader(string(b)))
		d.UseNumber()
		if err := d.Decode(&m); err != nil {
			return fmt.Errorf("reference values: %w", err)
		}
		if _, ok := m["version"]; !ok {
			for n, v := range m {
				if o.Values == nil {
					o.Values = map[string]any{}
				}
				if _, dup := o.Values[n]; dup {
					return fmt.Errorf("reference value %.80q is given twice", n)
				}
				o.Values[n] = v
			}
			return nil
		}
		var err error
		if bundle, err = refvalue.Parse(b); err != nil {
			return err
		}
	}
	if bundle.Expired(o.Now) {
		return fmt.Errorf("reference values: expired %s", bundle.Expires.Format(time.RFC3339))
	}
	o.References = append(o.References, bundle)
	return nil
}

// parsePublicKey reads a SubjectPublicKeyInfo in PEM.
func parsePublicKey(b []byte) (crypto.PublicKey, error) {
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, errors.New("no PUBLIC KEY in PEM")
	}
	return x509.ParsePKIXPublicKey(block.Bytes)
}

func readCerts(files []string) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for _, name := range files {
		b, err := readFile(name, nil, 64<<10)
		if err != nil {
			return nil, err
		}
		n := len(out)
		for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
			if block.Type != "CERTIFICATE" {
				return nil, fmt.Errorf("%s: holds a %.40q: give a file with certificates alone", name, block.Type)
			}
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			out = append(out, c)
		}
		if len(out) == n {
			return nil, fmt.Errorf("%s: no certificate in PEM", name)
		}
	}
	return out, nil
}
