package aws

import (
	"strings"
	"testing"
	"time"
)

// FuzzMetadata reads answers of a metadata service that is not what it should be.
func FuzzMetadata(f *testing.F) {
	f.Add([]byte(`{"Code":"Success","AccessKeyId":"A","SecretAccessKey":"b","Token":"c","Expiration":"2030-01-01T00:00:00Z"}`))
	f.Add([]byte(`{"Code":"Failed"}`))
	f.Add([]byte(`{"Code":"Success","AccessKeyId":"A\r\nX: y","SecretAccessKey":"b","Token":"c","Expiration":"2030-01-01T00:00:00Z"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		c, life, err := parseMetadata(body, time.Unix(1.7e9, 0))
		if (c == nil) == (err == nil) || err == nil && (life <= 0 || c.Secret == "" || strings.ContainsAny(c.ID+c.Token, " \r\n")) {
			t.Fatalf("%+v, %v, %v", c, life, err)
		}
	})
}
