package cli

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/cofferproject/coffer/owner/run"
	"github.com/cofferproject/coffer/tee/sgx/measure"
)

const (
	maxEnclave    = 1 << 30 // bytes of an SGXS stream
	maxSigningKey = 64 << 10
)

// NewSGXCommand has what only enclaves need.
func NewSGXCommand() *cobra.Command {
	return group("sgx", "Work with SGX enclaves", newSGXManifest(), newSGXSign())
}

// signed is the answer of coffer sgx sign.
type signedEnclave struct {
	File      string `json:"file"`
	MREnclave string `json:"mr_enclave"`
	MRSigner  string `json:"mr_signer"`
	ProductID uint16 `json:"isv_prod_id"`
	SVN       uint16 `json:"isv_svn"`
}

func newSGXSign() *cobra.Command {
	var enclave, keyFile, out, date string
	var s measure.Signing
	cmd := &cobra.Command{
		Use: "sign --enclave FILE --key FILE --out FILE", Short: "Sign an enclave: make its SIGSTRUCT", Args: noArgs,
		Long: `Measure an enclave (an SGXS stream) by the Intel SDM's rules and make the signature
structure with which a machine takes it (EINIT): 64-bit, no debug unless --allow-debug says
so, the given product id and security version. No machine with SGX has taken one yet; the
same bytes come out as of another project's signer.

The key is RSA of 3072 bits with the public exponent 3, PEM:

  openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:3072 -pkeyopt rsa_keygen_pubexp:3 -out signer.pem

coffer measure sgx --enclave FILE --sigstruct FILE gives the reference values.

Exit codes: 0 signed; 120 an input is missing or none of what it should be; 2 a flag is wrong.`,
		Example: "  coffer sgx sign --enclave app.sgxs --key signer.pem --isv-prod-id 1 --isv-svn 2 --kss --out app.sig",
		RunE: func(cmd *cobra.Command, _ []string) error {
			for flag, v := range map[string]string{"enclave": enclave, "key": keyFile, "out": out} {
				if v == "" {
					return Exit(ExitUsage, fmt.Errorf("--%s is missing", flag))
				}
			}
			s.Date = time.Now()
			if date != "" {
				d, err := time.Parse(time.DateOnly, date)
				if err != nil {
					return Exit(ExitUsage, fmt.Errorf("--date %q: not of the form 2026-11-27", date))
				}
				s.Date = d
			}
			a, b, err := signEnclave(enclave, keyFile, &s)
			if err != nil {
				return Exit(ExitInput, err)
			}
			if err := run.WriteFile(out, b, 0o644); err != nil {
				return err
			}
			a.File = out
			if Output(cmd) == "json" {
				return PrintJSON(cmd.OutOrStdout(), a)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: MRENCLAVE %s, MRSIGNER %s, product %d, version %d\n", a.File, a.MREnclave, a.MRSigner, a.ProductID, a.SVN)
			return nil
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&enclave, "enclave", "", "enclave `file` (SGXS)")
	fl.StringVar(&keyFile, "key", "", "signer's key `file` (PEM, PKCS #8)")
	fl.StringVar(&out, "out", "", "`file` for the signature structure")
	fl.StringVar(&date, "date", "", "day of the signature, such as 2026-11-27 (default: today); the same inputs then give the same bytes")
	fl.Uint16Var(&s.ProductID, "isv-prod-id", 0, "signer's number of the product")
	fl.Uint16Var(&s.SVN, "isv-svn", 0, "signer's security version of it")
	fl.BoolVar(&s.KSS, "kss", false, "with key separation and sharing, which the digest of initdata needs (CONFIGID)")
	fl.BoolVar(&s.AllowDebug, "allow-debug", false, "leave it to the host whether it may look into the enclave: for tries alone, no default policy affirms it")
	return cmd
}

// signEnclave measures and signs.
func signEnclave(enclave, keyFile string, s *measure.Signing) (*signedEnclave, []byte, error) {
	f, err := os.Open(enclave)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || st.Size() > maxEnclave {
		return nil, nil, errors.Join(err, fmt.Errorf("%s: more than %d bytes, or none that can be told", enclave, maxEnclave))
	}
	mr, err := measure.FromSGXS(f)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", enclave, err)
	}
	key, err := signingKey(keyFile)
	if err != nil {
		return nil, nil, err
	}
	b, err := measure.Sign(mr, s, key)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", keyFile, err)
	}
	got, err := measure.ParseSigstruct(b)
	if err != nil {
		return nil, nil, err
	}
	return &signedEnclave{MREnclave: hex.EncodeToString(mr[:]), MRSigner: hex.EncodeToString(got.MRSigner[:]), ProductID: got.ProductID, SVN: got.SVN}, b, nil
}

// signingKey reads a key; nothing of it is in an error.
func signingKey(file string) (crypto.Signer, error) {
	raw, err := readFile(file, bytes.NewReader(nil), maxSigningKey)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(raw)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, fmt.Errorf("%s: no private key in PEM (PKCS #8)", file)
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: the key cannot be read", file)
	}
	signer, ok := k.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%s: the key signs nothing", file)
	}
	return signer, nil
}
