package intel

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/cofferproject/coffer/tee/intel/quote"
)

// Limits of TCB information and QE identities.
const (
	maxDocument = 128 << 10 // ten times what Intel publishes
	maxLevels   = 1024
)

// hexBytes is hexadecimal text of either case.
type hexBytes []byte

// UnmarshalJSON implements json.Unmarshaler.
func (h *hexBytes) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	var err error
	*h, err = hex.DecodeString(s)
	return err
}

type level struct {
	Date       time.Time `json:"tcbDate"`
	Status     Status    `json:"tcbStatus"`
	Advisories []string  `json:"advisoryIDs"`
}

type svnLevel struct {
	TCB struct {
		ISVSVN *uint16 `json:"isvsvn"`
	} `json:"tcb"`
	level
}

type component struct {
	SVN *uint8 `json:"svn"`
}

type platformLevel struct {
	TCB struct {
		SGX    []component `json:"sgxtcbcomponents"`
		TDX    []component `json:"tdxtcbcomponents"`
		PCESVN *uint16     `json:"pcesvn"`
	} `json:"tcb"`
	level
}

type module struct {
	ID             string     `json:"id"`
	MRSigner       hexBytes   `json:"mrsigner"`
	Attributes     hexBytes   `json:"attributes"`
	AttributesMask hexBytes   `json:"attributesMask"`
	Levels         []svnLevel `json:"tcbLevels"`
}

// tcbInfo is TCB information, version 3 (PCS API v4).
type tcbInfo struct {
	ID         string          `json:"id"`
	Version    int             `json:"version"`
	Issued     time.Time       `json:"issueDate"`
	NextUpdate time.Time       `json:"nextUpdate"`
	FMSPC      hexBytes        `json:"fmspc"`
	PCEID      hexBytes        `json:"pceId"`
	Type       int             `json:"tcbType"`
	EvalNumber uint32          `json:"tcbEvaluationDataNumber"`
	Module     *module         `json:"tdxModule"`
	Modules    []module        `json:"tdxModuleIdentities"`
	Levels     []platformLevel `json:"tcbLevels"`
	signed
}

// qeIdentity is the identity of a Quoting Enclave, version 2.
type qeIdentity struct {
	ID             string     `json:"id"`
	Version        int        `json:"version"`
	Issued         time.Time  `json:"issueDate"`
	NextUpdate     time.Time  `json:"nextUpdate"`
	EvalNumber     uint32     `json:"tcbEvaluationDataNumber"`
	MiscSelect     hexBytes   `json:"miscselect"`
	MiscMask       hexBytes   `json:"miscselectMask"`
	Attributes     hexBytes   `json:"attributes"`
	AttributesMask hexBytes   `json:"attributesMask"`
	MRSigner       hexBytes   `json:"mrsigner"`
	ISVProdID      *uint16    `json:"isvprodid"`
	Levels         []svnLevel `json:"tcbLevels"`
	signed
}

// envelope splits {"<name>": document, "signature": hex}; the signature is over
// the document's bytes as they stand.
func envelope(b []byte, name string) (doc, signature []byte, err error) {
	if len(b) > maxDocument {
		return nil, nil, fmt.Errorf("%d bytes, at most %d", len(b), maxDocument)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	var m map[string]json.RawMessage
	if err := d.Decode(&m); err != nil {
		return nil, nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, nil, errors.New("data after the document")
	}
	if len(m) != 2 || m[name] == nil || m["signature"] == nil {
		return nil, nil, fmt.Errorf("not an object of %q and \"signature\"", name)
	}
	var sig hexBytes
	if err := json.Unmarshal(m["signature"], &sig); err != nil {
		return nil, nil, fmt.Errorf("signature: %w", err)
	}
	if len(sig) != quote.SignatureSize {
		return nil, nil, fmt.Errorf("signature of %d bytes", len(sig))
	}
	return m[name], sig, nil
}

func parseTCBInfo(doc []byte) (*tcbInfo, error) {
	t := new(tcbInfo)
	if err := json.Unmarshal(doc, t); err != nil {
		return nil, err
	}
	tdx := t.ID == "TDX"
	switch {
	case !tdx && t.ID != "SGX":
		return nil, fmt.Errorf("id %.20q is neither SGX nor TDX", t.ID)
	case t.Version != 3:
		return nil, fmt.Errorf("version %d, not 3", t.Version)
	case t.Issued.IsZero() || t.NextUpdate.IsZero():
		return nil, errors.New("dates are missing")
	case len(t.FMSPC) != 6 || len(t.PCEID) != 2:
		return nil, errors.New("fmspc or pceId has another size")
	case t.Type != 0:
		return nil, fmt.Errorf("tcbType %d, not 0", t.Type)
	case len(t.Levels) == 0 || len(t.Levels) > maxLevels || len(t.Modules) > maxLevels:
		return nil, fmt.Errorf("%d levels, %d modules", len(t.Levels), len(t.Modules))
	case tdx && t.Module == nil:
		return nil, errors.New("tdxModule is missing")
	}
	for i := range t.Levels {
		if err := t.Levels[i].check(tdx); err != nil {
			return nil, fmt.Errorf("tcbLevels[%d]: %w", i, err)
		}
	}
	if tdx {
		if err := t.Module.check(); err != nil {
			return nil, fmt.Errorf("tdxModule: %w", err)
		}
	}
	for i := range t.Modules {
		m := &t.Modules[i]
		err := m.check()
		if err == nil && m.ID == "" {
			err = errors.New("no id")
		}
		if err == nil {
			err = checkLevels(m.Levels)
		}
		if err != nil {
			return nil, fmt.Errorf("tdxModuleIdentities[%d]: %w", i, err)
		}
	}
	return t, nil
}

func (l *level) check() error {
	if l.Date.IsZero() {
		return errors.New("tcbDate is missing")
	}
	return l.Status.valid()
}

func (l *platformLevel) check(tdx bool) error {
	if len(l.TCB.SGX) != 16 || (tdx && len(l.TCB.TDX) != 16) || l.TCB.PCESVN == nil {
		return errors.New("components or pcesvn are missing")
	}
	for _, list := range [][]component{l.TCB.SGX, l.TCB.TDX} {
		for _, c := range list {
			if c.SVN == nil {
				return errors.New("svn is missing")
			}
		}
	}
	return l.level.check()
}

func (m *module) check() error {
	if len(m.MRSigner) != 48 || len(m.Attributes) != 8 || len(m.AttributesMask) != 8 {
		return errors.New("mrsigner or attributes have another size")
	}
	return nil
}

func checkLevels(list []svnLevel) error {
	if len(list) == 0 || len(list) > maxLevels {
		return fmt.Errorf("%d levels", len(list))
	}
	for i := range list {
		err := list[i].check()
		if err == nil && list[i].TCB.ISVSVN == nil {
			err = errors.New("isvsvn is missing")
		}
		if err != nil {
			return fmt.Errorf("tcbLevels[%d]: %w", i, err)
		}
	}
	return nil
}

func parseQEIdentity(doc []byte) (*qeIdentity, error) {
	e := new(qeIdentity)
	if err := json.Unmarshal(doc, e); err != nil {
		return nil, err
	}
	switch {
	case e.Version != 2:
		return nil, fmt.Errorf("version %d, not 2", e.Version)
	case e.Issued.IsZero() || e.NextUpdate.IsZero():
		return nil, errors.New("dates are missing")
	case len(e.MiscSelect) != 4 || len(e.MiscMask) != 4 || len(e.Attributes) != 16 || len(e.AttributesMask) != 16 || len(e.MRSigner) != 32 || e.ISVProdID == nil:
		return nil, errors.New("a field is missing or has another size")
	}
	return e, checkLevels(e.Levels)
}
