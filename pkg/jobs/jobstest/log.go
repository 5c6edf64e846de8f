package jobstest

import (
	"os"

	"go.uber.org/zap/zapcore"
)

// logLevel keeps tests quiet: warnings only, unless LOG_LEVEL asks for more.
func logLevel() zapcore.Level {
	level, err := zapcore.ParseLevel(os.Getenv("LOG_LEVEL"))
	if err != nil || os.Getenv("LOG_LEVEL") == "" {
		return zapcore.WarnLevel
	}
	return level
}
