package podpolicy

import (
	"bytes"
	"encoding/pem"
	"fmt"

	"github.com/cofferproject/coffer/api/agentpb"
	"github.com/cofferproject/coffer/api/denial"
)

// What a cluster gives a pod for its API: the kubelet's projected volume.
const (
	// ServiceAccountDir is where programs look for it.
	ServiceAccountDir = "/var/run/secrets/kubernetes.io/serviceaccount"

	accountMode = 0o644
	maxToken    = 16 << 10
	maxCA       = 512 << 10
	maxCAs      = 256
)

// ServiceAccountFiles are the only files of a volume of kind service-account.
var ServiceAccountFiles = []string{"ca.crt", "namespace", "token"}

var tokenRE = compiled(`^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$`)

// AccountFileRequest gives the request that delivers one of them, whole.
func AccountFileRequest(v *Volume, name string, content []byte) *agentpb.CopyFileRequest {
	return &agentpb.CopyFileRequest{
		Path: v.Path() + "/" + name, FileSize: int64(len(content)), FileMode: modeRegular | accountMode, DirMode: DirMode, Data: content,
	}
}

// judgeAccountFile lets the host deliver and renew what a cluster gives the pod: a
// token in the form of a JWT, certificates, the namespace's name. Whoever runs the
// cluster makes all three up anyway; the grammar keeps them from being anything else.
func (e *Enforcer) judgeAccountFile(r *agentpb.CopyFileRequest, v *Volume, name, claim string) (*Grant, *denial.Denial) {
	var ok bool
	switch name {
	case "token":
		ok = len(r.Data) <= maxToken && tokenRE.MatchString(string(r.Data))
	case "ca.crt":
		ok = len(r.Data) <= maxCA && certificates(r.Data)
	case "namespace":
		ok = len(r.Data) <= 63 && labelRE.MatchString(string(r.Data))
	default:
		return nil, deny(FileUndeclared, claim, "a file", "token, ca.crt or namespace")
	}
	if !ok {
		return nil, deny(FileMismatch, claim, fmt.Sprintf("%d bytes of another form", len(r.Data)), "a token (JWT), certificates (PEM), a namespace's name")
	}
	want := AccountFileRequest(v, name, r.Data)
	want.Path = r.Path
	if d := diff(claim, r.ProtoReflect(), want.ProtoReflect()); d != nil {
		d.Reason = FileMismatch
		return nil, d
	}
	return &Grant{File: &FileGrant{Volume: v, Path: name, File: File{Size: int64(len(r.Data)), Mode: accountMode}, Last: true}}, nil
}

// certificates reports whether b is PEM blocks of certificates and nothing else.
// What is in them is for the program that asked for them to judge: the agent parses
// no certificates of the host's.
func certificates(b []byte) bool {
	n := 0
	for len(bytes.TrimSpace(b)) > 0 {
		b = bytes.TrimLeft(b, " \t\r\n")
		if !bytes.HasPrefix(b, []byte("-----BEGIN CERTIFICATE-----")) {
			return false // pem.Decode would skip it
		}
		block, rest := pem.Decode(b)
		if block == nil || block.Type != "CERTIFICATE" || len(block.Headers) != 0 {
			return false
		}
		b = rest
		if n++; n > maxCAs {
			return false
		}
	}
	return n > 0
}
