// SPDX-License-Identifier: Apache-2.0

package delivery_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/conclave-mls/conclave/app/delivery"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
)

// A commit that adds a history client does not come to the service, which would forget
// what that client is for.
func TestNoHistory(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it came to the service") }))
	defer server.Close()
	transport := delivery.NewTransport(dial(t, server.URL, delivery.ClientOptions{}))
	outcome, err := transport.SubmitCommit(t.Context(), group, "key", client.CommitBundle{
		Commit: private(group, 0, commit, ""), Added: []core.ClientID{"dave", "history-client:1"}, EncryptedMessage: []byte("secret"),
	})
	if err != nil || outcome.Kind != client.Refused || outcome.Reason == "" {
		t.Errorf("outcome %+v, %v", outcome, err)
	}
}
