package vaultkv

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/cofferproject/coffer/trustee/outbound"
	"github.com/cofferproject/coffer/trustee/secretstore"
)

func reader(b []byte) io.Reader {
	if b == nil {
		return nil
	}
	return bytes.NewReader(b)
}

var errAnswer = fmt.Errorf("%w: it is not the engine's", secretstore.ErrMalformed) // without its text, which may be a secret

// said gives a status with what Vault says about it.
func said(a *outbound.Answer) string {
	var doc struct {
		Errors []string `json:"errors"`
	}
	_ = json.Unmarshal(a.Body, &doc)
	return strings.TrimSpace(fmt.Sprintf("status %d %s", a.Status, outbound.Plain(strings.Join(doc.Errors, "; "))))
}

// refused gives the error of a status that is neither 200 nor 404.
func refused(a *outbound.Answer) error {
	return fmt.Errorf("%w: %s", secretstore.ErrRefused, said(a))
}

// decode1 reads an answer of version 1.
func decode1(a *outbound.Answer, field string) (*secretstore.Secret, error) {
	switch a.Status {
	case http.StatusOK:
	case http.StatusNotFound:
		return nil, secretstore.ErrAbsent
	default:
		return nil, refused(a)
	}
	var doc struct {
		Data map[string]json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(a.Body, &doc); err != nil || doc.Data == nil {
		return nil, errAnswer
	}
	v, err := value(doc.Data, field)
	if err != nil {
		return nil, err
	}
	return &secretstore.Secret{Value: v}, nil
}

// decode2 reads an answer of version 2, which says of a version that is deleted when
// that was, and gives 404 with it.
func decode2(a *outbound.Answer, w secretstore.Want) (*secretstore.Secret, error) {
	if a.Status != http.StatusOK && a.Status != http.StatusNotFound {
		return nil, refused(a)
	}
	var doc struct {
		Data *struct {
			Data     map[string]json.RawMessage `json:"data"`
			Metadata struct {
				Version   uint64 `json:"version"`
				Deletion  string `json:"deletion_time"`
				Destroyed bool   `json:"destroyed"`
			} `json:"metadata"`
		} `json:"data"`
	}
	err := json.Unmarshal(a.Body, &doc)
	if a.Status == http.StatusNotFound {
		if err == nil && doc.Data != nil && (doc.Data.Metadata.Destroyed || doc.Data.Metadata.Deletion != "") {
			return nil, secretstore.ErrDeleted
		}
		return nil, secretstore.ErrAbsent
	}
	if err != nil || doc.Data == nil || doc.Data.Data == nil || doc.Data.Metadata.Version == 0 {
		return nil, errAnswer
	}
	number := strconv.FormatUint(doc.Data.Metadata.Version, 10)
	if w.Version != "" && w.Version != number {
		return nil, fmt.Errorf("%w: another version than the one asked for", secretstore.ErrMalformed)
	}
	v, err := value(doc.Data.Data, w.Field)
	if err != nil {
		return nil, err
	}
	return &secretstore.Secret{Value: v, Version: number, Number: doc.Data.Metadata.Version}, nil
}

// value takes a string, or a list of bytes as the published service writes it.
func value(all map[string]json.RawMessage, field string) ([]byte, error) {
	raw, ok := all[field]
	if !ok {
		return nil, fmt.Errorf("%w: it has no field %.80q", secretstore.ErrAbsent, field)
	}
	defer clear(raw)
	switch {
	case bytes.HasPrefix(raw, []byte(`"`)):
		var s string
		if err := json.Unmarshal(raw, &s); err != nil {
			return nil, errAnswer
		}
		return []byte(s), nil
	case bytes.HasPrefix(raw, []byte(`[`)):
		var l []uint8Number
		if err := json.Unmarshal(raw, &l); err != nil {
			return nil, fmt.Errorf("%w: the field is neither text nor a list of bytes", secretstore.ErrMalformed)
		}
		out := make([]byte, len(l))
		for i, n := range l {
			out[i] = byte(n)
		}
		return out, nil
	}
	return nil, fmt.Errorf("%w: the field is neither text nor a list of bytes", secretstore.ErrMalformed)
}

// uint8Number is a byte as a number: encoding/json reads []byte as base64.
type uint8Number uint8

// UnmarshalJSON takes whole numbers from 0 to 255 alone.
func (n *uint8Number) UnmarshalJSON(b []byte) error {
	v, err := strconv.ParseUint(string(b), 10, 8)
	if err != nil {
		return errors.New("not a byte")
	}
	*n = uint8Number(v)
	return nil
}
