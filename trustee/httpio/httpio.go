// Package httpio reads requests and writes answers the same way on all of the
// trustee's HTTP interfaces: the published error document, bounded bodies.
//
// Trust zone: trustee.
package httpio

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"

	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/trustee/store"
)

// TypePrefix opens the type of every published error.
const TypePrefix = "https://github.com/confidential-containers/kbs/errors/"

// Published error types, and TypeNotFound and TypeInternal in their manner.
const (
	TypeAttestation    = "AttestationError"
	TypePath           = "InvalidRequestPath"
	TypePlugin         = "PluginNotFound"
	TypePluginInternal = "PluginInternalError"
	TypePolicy         = "PolicyDeny"
	TypeToken          = "TokenNotFound"
	TypeTokenVerifier  = "TokenVerifierError"
	TypeAdmin          = "AdminAuthAccess"
	TypeSerde          = "SerdeError"
	TypeNotFound       = "ResourceNotFound"
	TypeInternal       = "PluginInternalError"
)

// MaxBody is the limit of a body where nothing else is said, as published.
const MaxBody = 2 << 20

// MaxName is the longest name of a resource.
const MaxName = 512

// Bad is a mistake of the peer.
type Bad struct{ Type, Detail string }

// Error gives the detail.
func (b *Bad) Error() string { return b.Detail }

// BadRequest makes a Bad. detail is shown to the peer.
func BadRequest(typ, detail string) error {
	if len(detail) > 400 {
		detail = detail[:400]
	}
	return &Bad{typ, detail}
}

// Write answers with an error document.
func Write(w http.ResponseWriter, status int, e kbs.ErrorInfo) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(e) // the peer may have gone
}

// WriteError answers with type and detail.
func WriteError(w http.ResponseWriter, status int, typ, detail string) {
	Write(w, status, kbs.ErrorInfo{Type: TypePrefix + typ, Detail: detail})
}

// WriteStoreError answers an error of the store and reports whether it was one.
// Nothing was released or changed, unless the answer says that this is not known; where the
// store is away the same may work later.
func WriteStoreError(w http.ResponseWriter, err error) bool {
	e := kbs.ErrorInfo{Type: TypePrefix + TypeInternal, Claim: "store"}
	switch {
	case errors.Is(err, store.ErrUnknown): // asking again may do it twice, so no Retry-After
		e.Reason, e.Detail = string(store.ReasonUnavailable), "the trustee's store went away before it answered: what was asked may have been done or not; look before asking again"
		Write(w, http.StatusServiceUnavailable, e)
	case errors.Is(err, store.ErrUnavailable):
		e.Reason, e.Detail = string(store.ReasonUnavailable), "the trustee's store is unavailable, so nothing is released or changed"
		w.Header().Set("Retry-After", "1")
		Write(w, http.StatusServiceUnavailable, e)
	case errors.Is(err, store.ErrTampered):
		e.Reason, e.Detail = string(store.ReasonTampered), "the trustee's store was changed from outside, so nothing is released or changed"
		Write(w, http.StatusInternalServerError, e)
	default:
		return false
	}
	return true
}

// WriteJSON answers with a document.
func WriteJSON(w http.ResponseWriter, status int, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encoding answer: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(b)
	return nil
}

// WriteJWKS answers with a key set, which nobody may keep for longer than a new key
// waits before it signs.
func WriteJWKS(w http.ResponseWriter, set []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "max-age=60")
	w.Write(set)
}

var (
	errTooLarge = errors.New("body too large")
	errBusy     = errors.New("too many bodies at once")
)

// WriteBodyError answers an error of Budget.Read.
func WriteBodyError(w http.ResponseWriter, err error) {
	switch {
	case errors.Is(err, errTooLarge):
		WriteError(w, http.StatusRequestEntityTooLarge, TypeSerde, "body too large")
	case errors.Is(err, errBusy):
		w.Header().Set("Retry-After", "1")
		WriteError(w, http.StatusTooManyRequests, TypeSerde, "too many requests at once")
	default:
		WriteError(w, http.StatusBadRequest, TypeSerde, "body cannot be read")
	}
}

// firstBuffer is what a body costs before it has sent anything. Of 10,000 slow ones that
// must leave most of the Budget to others.
const firstBuffer = 2 << 10

// Budget bounds the memory of all bodies together. A body takes from it as it
// arrives, so that a slow client holds no more than it has sent.
type Budget struct {
	left atomic.Int64
}

// NewBudget makes a Budget of n bytes.
func NewBudget(n int64) *Budget {
	b := new(Budget)
	b.left.Store(n)
	return b
}

// Left gives the bytes that are not taken.
func (b *Budget) Left() int64 { return b.left.Load() }

// Read reads a body of at most limit bytes. done gives its memory back.
func (b *Budget) Read(w http.ResponseWriter, r *http.Request, limit int64) (body []byte, done func(), err error) {
	if r.ContentLength > limit {
		return nil, nil, errTooLarge
	}
	taken := int64(0)
	defer func() {
		if err != nil {
			b.left.Add(taken)
		}
	}()
	src := http.MaxBytesReader(w, r.Body, limit)
	size := int64(firstBuffer)
	if r.ContentLength > 0 {
		size = min(size, r.ContentLength+1)
	}
	buf := make([]byte, 0, size)
	for {
		if int64(cap(buf)) > taken {
			n := int64(cap(buf)) - taken
			taken += n
			if b.left.Add(-n) < 0 {
				return nil, nil, errBusy
			}
		}
		n, err := src.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if errors.Is(err, io.EOF) {
			return buf, func() { b.left.Add(taken) }, nil
		}
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return nil, nil, errTooLarge
		}
		if err != nil {
			return nil, nil, err
		}
		if len(buf) == cap(buf) {
			grown := min(2*int64(cap(buf)), limit+1)
			if r.ContentLength > int64(len(buf)) { // the peer's word, which saves the last step
				grown = min(grown, r.ContentLength+1)
			}
			bigger := make([]byte, len(buf), grown)
			copy(bigger, buf)
			buf = bigger
		}
	}
}
