// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"context"
	"errors"
	"fmt"
	"math"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/conclave-mls/conclave/core"
)

// The first that matches is the code of an error; others are INTERNAL.
var statuses = []struct {
	err  error
	code codes.Code
}{
	{context.Canceled, codes.Canceled},
	{context.DeadlineExceeded, codes.DeadlineExceeded},
	{core.ErrNotFound, codes.NotFound},
	{core.ErrConflict, codes.Aborted},
	{core.ErrUnsupported, codes.Unimplemented},
	{core.ErrTooLarge, codes.ResourceExhausted},
	{core.ErrDenied, codes.FailedPrecondition},
	{core.ErrUnavailable, codes.FailedPrecondition},
	{core.ErrInvalid, codes.InvalidArgument},
}

// statusOf makes an error a gRPC status. Its text is for the driver's report.
func statusOf(err error) error {
	for _, s := range statuses {
		if errors.Is(err, s.err) {
			return status.Error(s.code, err.Error())
		}
	}
	return status.Error(codes.Internal, err.Error())
}

// invalid is a mistake of the driver.
func invalid(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, core.ErrInvalid)...)
}

// codePoint reads a 16-bit number, for which the contract has 32 bits.
func codePoint(v uint32) (uint16, error) {
	if v > math.MaxUint16 {
		return 0, invalid("code point %d", v)
	}
	return uint16(v), nil
}
