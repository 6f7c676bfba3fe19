package measure

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/tee/intel/quote"
	sgx "github.com/cofferproject/coffer/tee/sgx/measure"
)

func init() { calculators[launch.SGX] = measureSGX }

// measureSGX gives MRENCLAVE of an enclave, and with its SIGSTRUCT what the CPU
// will report of the signer.
func measureSGX(spec *launch.Spec, in *inputs, r *Result) error {
	mr, err := sgx.FromSGXS(bytes.NewReader(in.image))
	if err != nil {
		return fmt.Errorf("image: %s: %w", spec.Image.Path, err)
	}
	r.row("mr_enclave", mr[:], "the enclave's pages: contents, order, permissions")
	r.accept("sgx_mr_enclave", hex.EncodeToString(mr[:]))
	if spec.SGX == nil {
		r.Notes = append(r.Notes, "without the enclave's SIGSTRUCT nothing is said of its signer and attributes")
		return nil
	}
	s, err := sgx.ParseSigstruct(in.sigstruct)
	if err != nil {
		return fmt.Errorf("sigstruct: %s: %w", spec.SGX.Sigstruct.Path, err)
	}
	if s.MREnclave != mr {
		return fmt.Errorf("sigstruct: %s: ENCLAVEHASH is %x, and MRENCLAVE of %s is %x: EINIT would refuse it", spec.SGX.Sigstruct.Path, s.MREnclave, spec.Image.Path, mr)
	}
	return r.signature(spec, s)
}

// signature adds the rows and values that come from the SIGSTRUCT. Bytes are as
// they stand in a report: numbers are little-endian.
func (r *Result) signature(spec *launch.Spec, s *sgx.Sigstruct) error {
	le := binary.LittleEndian
	product, svn := le.AppendUint16(nil, s.ProductID), le.AppendUint16(nil, s.SVN)
	flags, open := s.ReportFlags()
	if spec.Initdata != nil {
		if flags&quote.FlagKSS == 0 && open&quote.FlagKSS == 0 {
			return errors.New("initdata: CONFIGID needs KSS, which the enclave's signature rules out")
		}
		flags |= quote.FlagKSS
	}
	of := "what the signature demands, and INIT"
	if left := open &^ flags; left != 0 {
		of += fmt.Sprintf("; it leaves open %#x, taken as 0", left)
	}
	r.row("mr_signer", s.MRSigner[:], "the signer's public key")
	r.row("isv_prod_id", product, "the signer's number of the product")
	r.row("isv_svn", svn, "the signer's security version of it")
	r.row("attributes.flags", le.AppendUint64(nil, flags), of)
	r.accept("sgx_attributes_flags", hex.EncodeToString(le.AppendUint64(nil, flags)))
	r.signer = map[string]any{
		"sgx_mr_signer":   []any{hex.EncodeToString(s.MRSigner[:])},
		"sgx_isv_prod_id": []any{hex.EncodeToString(product)},
		"sgx_isv_svn":     []any{hex.EncodeToString(svn)},
	}
	switch {
	case flags&quote.FlagProvision != 0:
		r.Notes = append(r.Notes, "the signature demands PROVISIONKEY: the verifier refuses such an enclave")
	case flags&quote.FlagDebug != 0:
		r.Notes = append(r.Notes, "the signature demands DEBUG: no policy can affirm such an enclave")
	case open&quote.FlagDebug != 0:
		r.Notes = append(r.Notes, "the signature allows DEBUG too, by the host's choice: such evidence is not affirmed")
	}
	return nil
}

// AcceptSigner adds reference values by which whatever the enclave's signer signs
// with the same product and security version is affirmed, this enclave or not.
func (r *Result) AcceptSigner() error {
	if r.signer == nil {
		return errors.New("accepting a signer: no SIGSTRUCT was measured")
	}
	maps.Copy(r.Values, r.signer)
	r.Notes = append(r.Notes, "the values accept any enclave of this signer with this product id and security version")
	return nil
}
