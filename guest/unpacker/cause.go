package unpacker

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"

	"github.com/cofferproject/coffer/guest/keyholder/layerkey"
	"github.com/cofferproject/coffer/image/apply"
	"github.com/cofferproject/coffer/image/digest"
	"github.com/cofferproject/coffer/image/ocicrypt"
	"github.com/cofferproject/coffer/image/registry"
	"github.com/cofferproject/coffer/image/unpack"
)

// PullError is a pull that failed. Error tells everything, and that may be a
// registry's own words, an address with a signature in it or a name of a file in
// an encrypted layer: it is for a debug guest's console. Public is for the host.
type PullError struct {
	Image string // as the policy names it
	Err   error

	causes  []cause
	trustee string // URL, as initdata names it; ""
}

func (e *PullError) Error() string { return e.Err.Error() }

// Unwrap gives the cause, which may be a denial.
func (e *PullError) Unwrap() error { return e.Err }

// Public gives what the host may read: words of ours, the policy's image, names
// of registries and the trustee as initdata configures them, HTTP status codes and
// sizes.
func (e *PullError) Public() string {
	var out []string
	for _, c := range e.causes {
		text := c.text()
		if (c.Why == whyTrustee || c.Why == whyTrusteeGone) && e.trustee != "" {
			text += fmt.Sprintf(" (the pod's initdata names %.200s: is it up, and can the pod reach it?)", e.trustee)
		}
		out = append(out, text)
	}
	return fmt.Sprintf("image %s: %s", e.Image, strings.Join(out, "; "))
}

// newPullError tells the causes of err. places are the registries that were to be
// asked: the parser that names another one may have been taken over.
func newPullError(image string, err error, places []string) *PullError {
	cs := causesOf(err)
	for i := range cs {
		cs[i].check(places)
	}
	return &PullError{Image: image, Err: err, causes: cs}
}

// why is a kind of failure, from a closed list.
type why string

const (
	whyOther       why = "other"
	whyConfig      why = "config"
	whyStatus      why = "status"
	whyCredentials why = "credentials"
	whyCertificate why = "certificate"
	whyPlainHTTP   why = "plain-http"
	whyTimeout     why = "timeout"
	whyStalled     why = "stalled"
	whyRefused     why = "refused"
	whyUnknownHost why = "unknown-host"
	whyBroken      why = "broken"
	whyDigest      why = "digest"
	whyUnreadable  why = "unreadable"
	whyWindow      why = "window"
	whyNoSpace     why = "no-space"
	whyMemory      why = "memory"
	whyKey         why = "key"
	whyChanged     why = "changed"
	whyTrustee     why = "trustee"
	whyTrusteeGone why = "trustee-refused"
	whyCancelled   why = "cancelled"
)

// words of each kind; where there is a registry, they follow its name.
var words = map[why]string{
	whyOther:       "pulling or unpacking failed (a debug guest's console says how)",
	whyConfig:      "initdata's registry configuration or credentials cannot be used",
	whyStatus:      "answers HTTP",
	whyCredentials: "wants credentials: none are configured for it, or it refuses them, or its token server gives none",
	whyCertificate: "has a certificate that is not trusted (put its CA into image.extra_root_certificates)",
	whyPlainHTTP:   "speaks plain HTTP (set insecure = true for it in the registry configuration if that is meant)",
	whyTimeout:     "does not answer in time: does it hang?",
	whyStalled:     "sends too slowly or not at all: does it hang?",
	whyRefused:     "cannot be reached: connection refused",
	whyUnknownHost: "cannot be found: no such host",
	whyBroken:      "the connection broke, or could not be made",
	whyDigest:      "gives other bytes than the digest names",
	whyUnreadable:  "it cannot be read: broken, cut, or of a kind that is not supported",
	whyWindow:      "zstd frame with a window of more than 8 MiB; compress the layer again with a smaller window (zstd --long is the usual cause)",
	whyNoSpace:     "no space left for the image; give the pod more memory",
	whyMemory:      "the parser was killed, probably for its memory: the image needs more than the guest has, or more than a parser may use",
	whyKey:         "its key cannot be unwrapped: another key, or a changed annotation",
	whyChanged:     "layer HMAC does not match: the encrypted layer was changed or cut, or the key is another layer's",
	whyTrustee:     "its key cannot be had: trustee not available",
	whyTrusteeGone: "its key cannot be had: trustee not available: connection refused",
	whyCancelled:   "given up",
}

// cause is one failure as the host may know it. A parser process sends it, so
// that no member is a text of its choice.
type cause struct {
	Why    why    `json:"why"`
	Place  string `json:"place,omitempty"`  // a registry's host name
	Status int    `json:"status,omitempty"` // HTTP
	MiB    uint64 `json:"mib,omitempty"`    // of a zstd window, or of the store
	// own is a text of the coordinator's, about initdata alone.
	own string
	// Layer counts from 1; 0: manifest or config. The coordinator sets both.
	Layer  int `json:"-"`
	Layers int `json:"-"`
}

// check makes what a parser said fit for the host.
func (c *cause) check(places []string) {
	if words[c.Why] == "" {
		c.Why = whyOther
	}
	if !slices.Contains(places, c.Place) {
		c.Place = ""
	}
	if c.Status < 100 || c.Status > 599 {
		c.Status = 0
	}
	c.MiB = min(c.MiB, 1<<24)
}

func (c *cause) text() string {
	s := words[c.Why]
	switch {
	case c.own != "":
		s = c.own
	case c.Status != 0:
		s += fmt.Sprintf(" %d %s", c.Status, http.StatusText(c.Status))
	case c.Why == whyWindow && c.MiB != 0:
		s = fmt.Sprintf("a window of %d MiB: %s", c.MiB, s)
	case c.Why == whyNoSpace && c.MiB != 0:
		s += fmt.Sprintf(" (there are %d MiB for images)", c.MiB)
	}
	if c.Place != "" {
		s = "registry " + c.Place + ": " + s
	}
	if c.Layer != 0 {
		s = fmt.Sprintf("layer %d of %d: %s", c.Layer, c.Layers, s)
	}
	return s
}

// layerError says in which layer something failed.
type layerError struct {
	layer, layers int
	err           error
}

func (e *layerError) Error() string { return e.err.Error() }
func (e *layerError) Unwrap() error { return e.err }

// errKilled says that the kernel ended a parser.
var errKilled = errors.New("killed")

// maxCauses bounds the places that are told of.
const maxCauses = 8

// causesOf tells the causes of an error: one for each registry that failed, or
// one.
func causesOf(err error) []cause {
	var out []cause
	var f *failed
	if errors.As(err, &f) && len(f.r.Causes) > 0 { // of a parser or writer, still to be checked
		out = slices.Clone(f.r.Causes)
	} else {
		for _, s := range sourceErrors(err) {
			out = append(out, causeOf(s))
		}
		if len(out) == 0 {
			out = []cause{causeOf(err)}
		}
	}
	out = out[:min(len(out), maxCauses)]
	var l *layerError
	if errors.As(err, &l) {
		for i := range out {
			out[i].Layer, out[i].Layers = l.layer, l.layers
		}
	}
	return out
}

// sourceErrors finds all of an error tree.
func sourceErrors(err error) []*registry.SourceError {
	switch e := err.(type) { //nolint:errorlint // the tree is walked here
	case *registry.SourceError:
		return []*registry.SourceError{e}
	case interface{ Unwrap() []error }:
		var out []*registry.SourceError
		for _, x := range e.Unwrap() {
			out = append(out, sourceErrors(x)...)
		}
		return out
	case interface{ Unwrap() error }:
		return sourceErrors(e.Unwrap())
	}
	return nil
}

func causeOf(err error) cause {
	c := cause{Why: kindOf(err)}
	var t *toldError
	if errors.As(err, &t) {
		c.own = t.text
	}
	var src *registry.SourceError
	if errors.As(err, &src) {
		c.Place = src.Host
	}
	var status *registry.StatusError
	if errors.As(err, &status) {
		c.Status = status.Status
	}
	var window *unpack.WindowError
	if errors.As(err, &window) {
		c.MiB = window.Window >> 20
	}
	var space *apply.NoSpaceError
	if errors.As(err, &space) {
		c.MiB = uint64(max(space.Total, 0)) >> 20
	}
	return c
}

// kindOf goes from what is certain to what is a guess.
func kindOf(err error) why {
	var (
		status   *registry.StatusError
		stall    *registry.StallError
		mismatch *digest.MismatchError
		window   *unpack.WindowError
		space    *apply.NoSpaceError
		cert     *tls.CertificateVerificationError
		unknown  x509.UnknownAuthorityError
		name     x509.HostnameError
		invalid  x509.CertificateInvalidError
		dns      *net.DNSError
		timeout  net.Error
	)
	switch {
	case errors.Is(err, layerkey.ErrTrusteeRefused):
		return whyTrusteeGone
	case errors.Is(err, layerkey.ErrTrusteeUnavailable):
		return whyTrustee
	case errors.Is(err, ocicrypt.ErrMAC):
		return whyChanged
	case errors.As(err, &mismatch):
		return whyDigest
	case errors.As(err, &window):
		return whyWindow
	case errors.As(err, &space):
		return whyNoSpace
	case errors.Is(err, errKilled):
		return whyMemory
	case errors.Is(err, errConfig):
		return whyConfig
	case registry.Unauthorized(err): // also where its token server fails
		return whyCredentials
	case errors.As(err, &status):
		return whyStatus
	case errors.As(err, &stall):
		return whyStalled
	case errors.As(err, &cert), errors.As(err, &unknown), errors.As(err, &name), errors.As(err, &invalid):
		return whyCertificate
	case errors.Is(err, registry.ErrPlainHTTP):
		return whyPlainHTTP
	case errors.Is(err, syscall.ECONNREFUSED):
		return whyRefused
	case errors.As(err, &dns) && !dns.IsTimeout:
		return whyUnknownHost
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return whyTimeout
	case errors.Is(err, context.Canceled):
		return whyCancelled
	case len(sourceErrors(err)) > 0:
		return whyBroken
	case errors.Is(err, errKey):
		return whyKey
	case errors.Is(err, errUnpack):
		return whyUnreadable
	}
	return whyOther
}

// toldError is about initdata, which the host has as well, and so may be read by
// it whole.
type toldError struct{ text string }

func (e *toldError) Error() string { return e.text }

func told(text string) error { return &toldError{text} }

// Marks of where an error came up, where its type does not tell.
var (
	errKey    = errors.New("the layer's key")
	errUnpack = errors.New("the layer's content")
	errConfig = errors.New("the registry configuration")
)

// marked is an error that also is a mark, and reads as it did.
type marked struct{ err, mark error }

func (m *marked) Error() string   { return m.err.Error() }
func (m *marked) Unwrap() []error { return []error{m.err, m.mark} }

func mark(err, as error) error {
	if err == nil {
		return nil
	}
	return &marked{err, as}
}
