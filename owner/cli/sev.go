package cli

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/owner/run"
	"github.com/cofferproject/coffer/tee/sev"
)

// Files of a session's folder.
const (
	sevKeysFile   = "keys.json"
	sevLaunchFile = "launch.json"
	maxSEVFile    = 64 << 10
)

// NewSEVCommand has what only SEV and SEV-ES need.
func NewSEVCommand() *cobra.Command {
	return group("sev", "Hand secrets to launches of SEV and SEV-ES", newSEVSession(), newSEVSecret(), newSEVServe())
}

// sevKeys is the file with a session's keys: the owner's secret.
type sevKeys struct {
	TEK    []byte `json:"tek"`
	TIK    []byte `json:"tik"`
	Policy uint32 `json:"policy"`
}

func newSEVSession() *cobra.Command {
	var chain, vendors, tee, out, service string
	var policy uint32
	cmd := &cobra.Command{
		Use: "session --chain FILE --ask-ark FILE --tee sev|sev-es --service URL --out DIR", Short: "Make the session under which a platform can be handed a secret", Args: noArgs,
		Long: `Check that a platform's secure processor is AMD's and make a session with it: keys,
wrapped for that processor alone. The folder gets

  keys.json    the keys, for coffer sev secret and coffer sev serve: keep it
  launch.json  the member "snp" of the launch spec, for coffer-node sandbox: not secret

The platform's certificates (PDH, PEK, OCA and CEK, one after the other) are what sevctl
export writes there, or the members pdh and cert-chain of QEMU's query-sev-capabilities.
ASK and ARK are AMD's, for the kind of processor: take them from AMD, not from the host,
since whoever makes them up makes the platform up. No hardware has taken a session yet.

Exit codes: 0 made; 120 an input is missing or does not verify; 2 a flag is wrong.`,
		Example: "  coffer sev session --chain platform.cert --ask-ark ask_ark_rome.cert --tee sev-es --service https://owner.example:8445 --out session",
		RunE: func(cmd *cobra.Command, _ []string) error {
			for flag, v := range map[string]string{"chain": chain, "ask-ark": vendors, "service": service, "out": out} {
				if v == "" {
					return Exit(ExitUsage, fmt.Errorf("--%s is missing", flag))
				}
			}
			spec := launch.Spec{TEE: launch.TEE(tee), SNP: &launch.SNPParams{Policy: uint64(policy)}}
			if spec.TEE != launch.SEV && spec.TEE != launch.SEVES {
				return Exit(ExitUsage, fmt.Errorf("--tee %q: sev or sev-es", tee))
			}
			const encryptedState = 4
			policy = uint32(spec.PolicyOf())
			if (policy&encryptedState != 0) != (spec.TEE == launch.SEVES) {
				return Exit(ExitUsage, fmt.Errorf("--policy %#x is none of %s: bit 2 asks for encrypted state", policy, tee))
			}
			c, err := readFile(chain, cmd.InOrStdin(), maxSEVFile)
			if err != nil {
				return Exit(ExitInput, err)
			}
			v, err := readFile(vendors, cmd.InOrStdin(), maxSEVFile)
			if err != nil {
				return Exit(ExitInput, err)
			}
			p, err := sev.VerifyPlatform(c, v)
			if err != nil {
				return Exit(ExitInput, err)
			}
			keys, session, err := sev.NewSession(p, policy)
			if err != nil {
				return Exit(ExitInput, err)
			}
			params := &launch.SNPParams{Policy: uint64(policy), DHCert: session.DHCert, Session: session.Blob, SecretService: service}
			if err := writeSession(out, keys, params); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: a session of %s with policy %#x\n", out, tee, policy)
			return err
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&chain, "chain", "", "`file` with the platform's certificates: PDH, PEK, OCA, CEK")
	fl.StringVar(&vendors, "ask-ark", "", "`file` with AMD's certificates, ASK and ARK: the root that is trusted")
	fl.StringVar(&tee, "tee", "", "sev or sev-es")
	fl.Uint32Var(&policy, "policy", 0, "the guest's policy (default: the launcher's, 0x3b and 0x3f)")
	fl.StringVar(&service, "service", "", "`URL` at which the node finds coffer sev serve")
	fl.StringVar(&out, "out", "", "`folder` for the session; it must not be there")
	return cmd
}

// writeSession makes the session's folder; nothing is overwritten, since who loses
// keys loses the launch.
func writeSession(dir string, k *sev.Keys, params *launch.SNPParams) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return Exit(ExitInput, fmt.Errorf("--out: %w", err))
	}
	keys, err := json.Marshal(sevKeys{k.TEK[:], k.TIK[:], k.Policy})
	if err != nil {
		return err
	}
	public, err := json.MarshalIndent(map[string]any{"snp": params}, "", "  ")
	if err != nil {
		return err
	}
	if err := run.WriteFile(filepath.Join(dir, sevKeysFile), keys, 0o600); err != nil {
		return err
	}
	return run.WriteFile(filepath.Join(dir, sevLaunchFile), append(public, '\n'), 0o644)
}

// sevAnswer is what coffer sev secret and serve answer with.
type sevAnswer struct {
	session string
	digests []string
	entries []string
	floor   string

	keys  *sev.Keys
	want  sev.Expected
	table []byte
}

func (a *sevAnswer) flags(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&a.session, "session", "", "`folder` of coffer sev session")
	fl.StringArrayVar(&a.digests, "digest", nil, "launch digest that may have the secret, in hex, by coffer measure sev or sev-es (repeatable)")
	fl.StringVar(&a.floor, "min-firmware", "", "oldest firmware of the secure processor that may have the secret: API version and build, such as 0.24.15 (default 0.17.0)")
	fl.StringArrayVar(&a.entries, "entry", nil, "`GUID=FILE`: a secret of the guest's table, such as 736869e5-84f0-4973-92ec-06879ce3da0b=disk.key (repeatable)")
}

func (a *sevAnswer) load(stdin io.Reader) error {
	switch {
	case a.session == "":
		return Exit(ExitUsage, errors.New("--session is missing"))
	case len(a.digests) == 0:
		return Exit(ExitUsage, errors.New("--digest is missing: coffer measure sev, or sev-es, computes it"))
	case len(a.entries) == 0:
		return Exit(ExitUsage, errors.New("--entry is missing: what the guest is to have"))
	}
	for _, d := range a.digests {
		b, err := hex.DecodeString(d)
		if err != nil || len(b) != 32 {
			return Exit(ExitUsage, fmt.Errorf("--digest %.80q: not 64 hex digits", d))
		}
		a.want.Digests = append(a.want.Digests, b)
	}
	if a.floor != "" {
		f := &a.want.Floor
		if n, err := fmt.Sscanf(a.floor, "%d.%d.%d", &f.Major, &f.Minor, &f.Build); n != 3 || err != nil || a.floor != fmt.Sprintf("%d.%d.%d", f.Major, f.Minor, f.Build) {
			return Exit(ExitUsage, fmt.Errorf("--min-firmware %.40q: not of the form 0.24.15", a.floor))
		}
	}
	name := filepath.Join(a.session, sevKeysFile)
	b, err := readFile(name, stdin, maxSEVFile)
	if err != nil {
		return Exit(ExitInput, err)
	}
	var k sevKeys
	if err := json.Unmarshal(b, &k); err != nil || len(k.TEK) != sev.KeySize || len(k.TIK) != sev.KeySize {
		return Exit(ExitInput, fmt.Errorf("%s: no keys of coffer sev session", name))
	}
	a.keys = &sev.Keys{TEK: [sev.KeySize]byte(k.TEK), TIK: [sev.KeySize]byte(k.TIK), Policy: k.Policy}
	var entries []sev.Entry
	for _, e := range a.entries {
		guid, file, ok := strings.Cut(e, "=")
		if !ok {
			return Exit(ExitUsage, fmt.Errorf("--entry %.80q: not GUID=FILE", e))
		}
		value, err := readFile(file, stdin, maxSEVFile)
		if err != nil {
			return Exit(ExitInput, err)
		}
		entries = append(entries, sev.Entry{GUID: guid, Value: value})
	}
	a.table, err = sev.Table(entries)
	return Exit(ExitInput, err)
}

func newSEVSecret() *cobra.Command {
	a := new(sevAnswer)
	var measurement string
	cmd := &cobra.Command{
		Use: "secret --session DIR --measurement FILE --digest HEX --entry GUID=FILE", Short: "Answer a launch's measurement with the secret", Args: noArgs,
		Long: `Check a launch's measurement under a session's key and print the packet that carries the
secret into that launch: JSON with header and secret, as sev-inject-launch-secret takes
them (packet-header, secret). What the host measured of anything else gets nothing.

Exit codes: 0 made; 120 an input is wrong; 123 the measurement is not an expected one; 2 a flag is wrong.`,
		Example: "  coffer sev secret --session session --measurement measured.json --digest 5634bb... --entry 736869e5-84f0-4973-92ec-06879ce3da0b=disk.key",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if measurement == "" {
				return Exit(ExitUsage, errors.New("--measurement is missing: JSON as the node posts it, or - for standard input"))
			}
			if err := a.load(cmd.InOrStdin()); err != nil {
				return err
			}
			b, err := readFile(measurement, cmd.InOrStdin(), maxSEVFile)
			if err != nil {
				return Exit(ExitInput, err)
			}
			s, err := a.answer(b)
			if errors.Is(err, sev.ErrMeasurement) {
				return Exit(ExitDenied, err)
			}
			if err != nil {
				return Exit(ExitInput, err)
			}
			return PrintJSON(cmd.OutOrStdout(), s)
		},
	}
	a.flags(cmd)
	cmd.Flags().StringVar(&measurement, "measurement", "", "`file` with the measurement (JSON: api_major, api_minor, build, policy, measure, nonce), or - for standard input")
	return cmd
}

// answer reads a measurement and makes the packet for it.
func (a *sevAnswer) answer(b []byte) (*launch.SEVSecret, error) {
	m, err := launch.ParseSEVMeasurement(b)
	if err != nil {
		return nil, err
	}
	return a.keys.Packet(m, &a.want, a.table)
}
