package fakecloud

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/trustee/cloud/aws"
)

// AWS is Secrets Manager of eu-central-1, and the metadata service of a machine with the
// role coffer.
type AWS struct {
	*Cloud
	Key   aws.Credentials // of a file
	role  aws.Credentials // of the machine
	until time.Time
}

// StartAWS starts one.
func StartAWS(t testing.TB) *AWS {
	f := &AWS{Key: aws.Credentials{ID: "AKIDFILE", Secret: "file secret"}}
	f.Cloud = start(t, f.serve)
	return f
}

var signedHeaders = regexp.MustCompile(`SignedHeaders=([a-z0-9;-]+), `)

func (f *AWS) signed(r *http.Request, body []byte) bool {
	at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	m := signedHeaders.FindStringSubmatch(r.Header.Get("Authorization"))
	if err != nil || f.Now().Sub(at).Abs() > 5*time.Minute || m == nil {
		return false
	}
	for _, c := range []aws.Credentials{f.Key, f.role} {
		if c.ID == "" || c == f.role && !f.Now().Before(f.until) {
			continue
		}
		again, err := http.NewRequestWithContext(r.Context(), r.Method, f.URL+"/", bytes.NewReader(body))
		if err != nil {
			return false
		}
		for h := range strings.SplitSeq(m[1], ";") {
			if h != "host" {
				again.Header.Set(h, r.Header.Get(h))
			}
		}
		aws.Sign(again, body, &c, "eu-central-1", "secretsmanager", at)
		if again.Header.Get("Authorization") == r.Header.Get("Authorization") {
			return true
		}
	}
	return false
}

func (f *AWS) serve(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/latest/") {
		f.metadata(w, r)
		return
	}
	body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	refuse := func(kind string) { give(w, 400, doc{"__type": kind, "Message": "about " + kind}) }
	var in struct{ SecretId, VersionId string } //nolint:revive // AWS's spelling
	switch {
	case !f.signed(r, body):
		refuse("InvalidSignatureException")
		return
	case r.Header.Get("X-Amz-Target") != "secretsmanager.GetSecretValue" || json.Unmarshal(body, &in) != nil:
		refuse("InvalidParameterException")
		return
	}
	name, _ := strings.CutPrefix(in.SecretId, "arn:aws:secretsmanager:eu-central-1:123456789012:secret:")
	v := f.find(name, in.VersionId)
	switch {
	case v == nil:
		refuse("ResourceNotFoundException")
	case v.Disabled:
		refuse("InvalidRequestException")
	default:
		out := doc{"ARN": "arn:aws:secretsmanager:eu-central-1:123456789012:secret:" + name, "Name": name, "VersionId": v.ID, "VersionStages": []string{"AWSCURRENT"}, "CreatedDate": 1.5e9}
		if v.Binary {
			out["SecretBinary"] = v.Value
		} else {
			out["SecretString"] = string(v.Value)
		}
		give(w, 200, out)
	}
}

func (f *AWS) metadata(w http.ResponseWriter, r *http.Request) {
	const roles = "/latest/meta-data/iam/security-credentials/"
	if r.Method == http.MethodPut && r.URL.Path == "/latest/api/token" && r.Header.Get("X-aws-ec2-metadata-token-ttl-seconds") != "" {
		_, _ = io.WriteString(w, f.issue(time.Minute))
		return
	}
	if until, ok := f.tokens[r.Header.Get("X-aws-ec2-metadata-token")]; !ok || !f.Now().Before(until) {
		w.WriteHeader(http.StatusUnauthorized) // version 1 is off
		return
	}
	switch r.URL.Path {
	case roles:
		_, _ = io.WriteString(w, "coffer")
	case roles + "coffer":
		f.role, f.until = aws.Credentials{ID: "ASIAROLE", Secret: f.issue(0), Token: "session" + f.issue(0)}, f.Now().Add(time.Hour)
		give(w, 200, doc{"Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": f.role.ID, "SecretAccessKey": f.role.Secret, "Token": f.role.Token, "Expiration": f.until.UTC().Format(time.RFC3339), "LastUpdated": f.Now().UTC().Format(time.RFC3339)})
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}
