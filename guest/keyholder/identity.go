package keyholder

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/api/resource"
	"github.com/cofferproject/coffer/api/svid"
)

// Workloads get SPIFFE identities by references of the plugin svid: kbs+svid:///x509/NAME
// and kbs+svid:///jwt/NAME?audience=A (api/svid). Only names that initdata lists leave this
// process; who has them is for the trustee to say.

// identity fetches the document that a reference names.
func (c *client) identity(ctx context.Context, u *resource.URI) (*fetched, error) {
	if len(u.Path) != 2 || svid.CheckName(u.Path[1]) != nil {
		return nil, status.Error(codes.InvalidArgument, "identity: want x509/NAME or jwt/NAME")
	}
	kind, name := u.Path[0], u.Path[1]
	var err error
	switch kind {
	case svid.KindX509:
		if u.Query != "" {
			err = errors.New("a certificate has no query")
		}
	case svid.KindJWT:
		_, err = svid.ParseAudiences(u.Query)
	default:
		err = errors.New("want x509/NAME or jwt/NAME")
	}
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "identity: %v", err)
	}
	if !slices.Contains(c.identities, name) {
		return nil, &denial.Denial{
			Reason: ReasonIdentityNotListed, Component: Component, Claim: "identity " + name, Expected: "a name of the list",
			Source: "identities in initdata",
		}
	}
	if kind == svid.KindJWT {
		return c.fetch(ctx, u, requestTimeout, func(*session) (*question, error) { return &question{method: http.MethodGet}, nil })
	}
	var by *session
	out, err := c.fetch(ctx, u, requestTimeout, func(s *session) (*question, error) {
		by = s
		return certificateRequest(s)
	})
	if err != nil {
		return nil, err
	}
	if out.content, err = withKey(out.content, by); err != nil {
		return nil, c.protocol("identity %s: %v", name, err)
	}
	return out, nil
}

// certificateRequest proves to have the session's key, and asks for nothing else: the name
// is the owner's registration.
func certificateRequest(s *session) (*question, error) {
	if s.identity == nil {
		return nil, &denial.Denial{
			Reason: ReasonIdentityKey, Component: Component, Claim: kbs.BindIdentityKey, Measured: "the trustee did not confirm it",
			Expected: "evidence that covers the key for identities", Source: "api/kbs SPEC.md",
		}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, s.identity)
	if err != nil {
		return nil, fmt.Errorf("making certificate request: %w", err)
	}
	return &question{method: http.MethodPost, body: der, header: http.Header{"Content-Type": {"application/pkcs10"}}}, nil
}

// withKey completes the trustee's document with the key that its certificate is for. One
// for another key, or under another name than it says, is of no use to anybody here.
func withKey(b []byte, s *session) ([]byte, error) {
	doc, err := svid.DecodeX509(b)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode([]byte(doc.Chain))
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("no certificate")
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, err
	}
	if !s.identity.PublicKey.Equal(leaf.PublicKey) {
		return nil, errors.New("the certificate is for another key")
	}
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != doc.ID {
		return nil, errors.New("the certificate has another name")
	}
	der, err := x509.MarshalPKCS8PrivateKey(s.identity)
	if err != nil {
		return nil, errors.New("encoding the key failed")
	}
	defer clear(der)
	doc.Key = string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	return json.Marshal(doc)
}
