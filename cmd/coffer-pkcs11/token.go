//go:build cgo

package main

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"github.com/miekg/pkcs11"
)

type config struct{ module, token, pinFile, key string }

// token is a session with a security module, and a key in it. One call at a time: a
// session of PKCS #11 is no more than that.
type token struct {
	cfg config
	p   *pkcs11.Ctx

	mu      sync.Mutex
	session pkcs11.SessionHandle
	key     pkcs11.ObjectHandle
}

const (
	ivSize  = 12
	tagBits = 128
	maxPIN  = 1 << 10
)

func readPIN(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("PIN: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return "", fmt.Errorf("PIN: %w", err)
	}
	if st.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("PIN: %s can be read by others (mode %04o)", path, st.Mode().Perm())
	}
	b, err := io.ReadAll(io.LimitReader(f, maxPIN+1))
	if err != nil || len(b) > maxPIN {
		return "", fmt.Errorf("PIN: %s is not a PIN", path)
	}
	return strings.TrimRight(string(b), "\r\n"), nil
}

// open loads the module and logs in to the token.
func open(c *config) (t *token, err error) {
	pin, err := readPIN(c.pinFile)
	if err != nil {
		return nil, err
	}
	p := pkcs11.New(c.module)
	if p == nil {
		return nil, fmt.Errorf("--module %s cannot be loaded", c.module)
	}
	if err := p.Initialize(); err != nil {
		p.Destroy()
		return nil, fmt.Errorf("--module %s: %w", c.module, err)
	}
	t = &token{cfg: *c, p: p}
	defer func() {
		if err != nil {
			t.close()
			t = nil
		}
	}()
	slot, err := t.slot()
	if err != nil {
		return t, err
	}
	if t.session, err = p.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION); err != nil {
		return t, fmt.Errorf("token %q: %w", c.token, err)
	}
	if err := p.Login(t.session, pkcs11.CKU_USER, pin); err != nil {
		return t, fmt.Errorf("token %q: %w", c.token, err)
	}
	return t, nil
}

func (t *token) slot() (uint, error) {
	slots, err := t.p.GetSlotList(true)
	if err != nil {
		return 0, fmt.Errorf("slots: %w", err)
	}
	var found []uint
	for _, s := range slots {
		if info, err := t.p.GetTokenInfo(s); err == nil && strings.TrimRight(info.Label, " \x00") == t.cfg.token {
			found = append(found, s)
		}
	}
	if len(found) != 1 {
		return 0, fmt.Errorf("%d tokens are labelled %q", len(found), t.cfg.token)
	}
	return found[0], nil
}

func (t *token) close() {
	_ = t.p.Logout(t.session)
	_ = t.p.CloseSession(t.session)
	_ = t.p.Finalize()
	t.p.Destroy()
}

func (t *token) objects() ([]pkcs11.ObjectHandle, error) {
	return t.matching(
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, t.cfg.key),
	)
}

// matching gives some of the objects that have all these attributes: more than one, if
// there are.
func (t *token) matching(like ...*pkcs11.Attribute) ([]pkcs11.ObjectHandle, error) {
	if err := t.p.FindObjectsInit(t.session, like); err != nil {
		return nil, err
	}
	found, _, err := t.p.FindObjects(t.session, 16)
	return found, errors.Join(err, t.p.FindObjectsFinal(t.session))
}

// find looks for the key. One that could be read out of the token is refused.
func (t *token) find() error {
	found, err := t.objects()
	if err != nil {
		return fmt.Errorf("key %q: %w", t.cfg.key, err)
	}
	if len(found) != 1 {
		return fmt.Errorf("%d AES keys of the token are labelled %q (make-key makes one)", len(found), t.cfg.key)
	}
	attrs, err := t.p.GetAttributeValue(t.session, found[0], []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, nil), pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, nil),
	})
	if err != nil {
		return fmt.Errorf("key %q: %w", t.cfg.key, err)
	}
	if !bytes.Equal(attrs[0].Value, []byte{1}) || !bytes.Equal(attrs[1].Value, []byte{0}) {
		return fmt.Errorf("key %q can leave the token: it is not sensitive, or extractable", t.cfg.key)
	}
	t.key = found[0]
	return nil
}

func (t *token) makeKey() error {
	found, err := t.objects()
	if err != nil {
		return fmt.Errorf("key %q: %w", t.cfg.key, err)
	}
	if len(found) > 0 {
		return fmt.Errorf("the token has a key %q", t.cfg.key)
	}
	_, err = t.p.GenerateKey(t.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_GEN, nil)}, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES),
		pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 32), pkcs11.NewAttribute(pkcs11.CKA_LABEL, t.cfg.key),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true), pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false),
		pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, true), pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, true),
	})
	if err != nil {
		return fmt.Errorf("making key %q: %w", t.cfg.key, err)
	}
	return nil
}

func gcm(iv, aad []byte) ([]*pkcs11.Mechanism, func()) {
	params := pkcs11.NewGCMParams(iv, aad, tagBits)
	return []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_GCM, params)}, params.Free
}

// wrap gives nonce, ciphertext and tag.
func (t *token) wrap(plain, aad []byte) ([]byte, error) {
	iv := make([]byte, ivSize)
	rand.Read(iv)
	m, free := gcm(iv, aad)
	defer free()
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.p.EncryptInit(t.session, m, t.key); err != nil {
		return nil, err
	}
	out, err := t.p.Encrypt(t.session, plain)
	if err != nil {
		return nil, err
	}
	return append(iv, out...), nil
}

func (t *token) unwrap(wrapped, aad []byte) ([]byte, error) {
	if len(wrapped) < ivSize+tagBits/8 {
		return nil, errors.New("too short")
	}
	m, free := gcm(wrapped[:ivSize], aad)
	defer free()
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.p.DecryptInit(t.session, m, t.key); err != nil {
		return nil, err
	}
	return t.p.Decrypt(t.session, wrapped[ivSize:])
}
