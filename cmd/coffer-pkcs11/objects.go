//go:build cgo

package main

import (
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"
)

const maxObject = 64 << 10 // bytes

var errNoObject = errors.New("no such object")

// generic is what secrets are among the token's objects: no key that the module uses
// itself is ever one of them, so that none can be read out.
func generic(label string) []*pkcs11.Attribute {
	return []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_GENERIC_SECRET),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
	}
}

// readObject gives the value of the one object of a label.
func (t *token) readObject(label string) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	found, err := t.matching(generic(label)...)
	switch {
	case err != nil:
		return nil, err
	case len(found) == 0:
		return nil, errNoObject
	case len(found) > 1:
		return nil, fmt.Errorf("%d objects have this label: write it again", len(found))
	}
	v, err := t.p.GetAttributeValue(t.session, found[0], []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_VALUE, nil)})
	if err != nil {
		return nil, err
	}
	if len(v) != 1 || len(v[0].Value) == 0 {
		return nil, errors.New("the object has no value")
	}
	return v[0].Value, nil
}

// writeObject keeps a value in the token. What had the label goes after that, so that
// there is always one.
func (t *token) writeObject(label string, value []byte) error {
	if len(value) == 0 || len(value) > maxObject {
		return fmt.Errorf("%d bytes, not 1 to %d", len(value), maxObject)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	old, err := t.matching(generic(label)...)
	if err != nil {
		return err
	}
	if _, err := t.p.CreateObject(t.session, append(generic(label),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, false), pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, true),
		pkcs11.NewAttribute(pkcs11.CKA_VALUE, value),
	)); err != nil {
		return err
	}
	return t.destroy(old)
}

func (t *token) deleteObject(label string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	found, err := t.matching(generic(label)...)
	if err == nil && len(found) == 0 {
		err = errNoObject
	}
	if err != nil {
		return err
	}
	return t.destroy(found)
}

func (t *token) destroy(all []pkcs11.ObjectHandle) error {
	for _, o := range all {
		if err := t.p.DestroyObject(t.session, o); err != nil {
			return err
		}
	}
	return nil
}
