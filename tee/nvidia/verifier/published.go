package verifier

import (
	"crypto/x509"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/internal/certchain"
	"github.com/cofferproject/coffer/tee/internal/revocation"
)

// Places of NVIDIA's that its certificates and devices name.
const (
	Lists     = "https://crl.ndis.nvidia.com/"
	Responder = "https://ocsp.ndis.nvidia.com/"
	Manifests = rimService
)

// MaxPublished bounds a document of NVIDIA's, in bytes: manifests have some hundred KiB.
const MaxPublished = 4 << 20

// manifestName is the form of the names of manifests.
var manifestName = regexp.MustCompile(`^NV_(GPU_DRIVER|GPU_VBIOS|SWITCH_BIOS)_[0-9A-Za-z_.-]{1,100}$`)

// IsManifestOrigin reports whether an origin is that of a manifest of NVIDIA's.
func IsManifestOrigin(origin string) bool {
	id, ok := strings.CutPrefix(origin, Manifests)
	return ok && manifestName.MatchString(id)
}

// Published checks what NVIDIA publishes.
type Published struct{ v *Verifier }

// NewPublished takes the roots of devices and of manifests; none: NVIDIA's own.
func NewPublished(devices, manifests []*x509.Certificate) (*Published, error) {
	v := &Verifier{roots: devices, rimRoots: manifests}
	if len(devices)+len(manifests) == 0 {
		var err error
		if v.roots, v.rimRoots, err = embedded(); err != nil {
			return nil, err
		}
	}
	return &Published{v}, nil
}

// Check verifies a document as the one that NVIDIA publishes under its origin: what a
// verifier would refuse is refused here. Lists and responses come with the chain of
// their issuer. Whether it is current is for the caller to say.
func (p *Published) Check(it *collateral.Item) (collateral.Validity, error) {
	var none collateral.Validity
	if len(it.Body) > MaxPublished {
		return none, fmt.Errorf("%d bytes, at most %d", len(it.Body), MaxPublished)
	}
	if IsManifestOrigin(it.Origin) {
		return p.manifest(it)
	}
	if !strings.HasPrefix(it.Origin, Lists) && !strings.HasPrefix(it.Origin, Responder) {
		return none, fmt.Errorf("%.200q is no manifest, list or responder of NVIDIA's", it.Origin)
	}
	chain, err := revocation.Issuers(it)
	if err != nil {
		return none, err
	}
	last := certchain.SPKI(chain[len(chain)-1])
	if !slices.ContainsFunc(slices.Concat(p.v.roots, p.v.rimRoots), func(r *x509.Certificate) bool { return certchain.SPKI(r) == last }) {
		return none, fmt.Errorf("%w: its issuer is certified by %s, public key %x", certchain.ErrUntrusted, chain[len(chain)-1].Subject, last)
	}
	return revocation.CheckPublished(it, chain[0])
}

func (p *Published) manifest(it *collateral.Item) (collateral.Validity, error) {
	id := strings.TrimPrefix(it.Origin, Manifests)
	m, err := p.v.newManifestThen(it.Body, id)
	if err != nil {
		return collateral.Validity{}, err
	}
	return collateral.Validity{Issued: m.Chain[0].NotBefore, Until: m.to}, nil
}
