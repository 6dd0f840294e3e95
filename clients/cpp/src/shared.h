// What the parts of a stream share, under one lock.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "connection.h"
#include "duly/duly.h"
#include "frames.h"
#include "wall_clock.h"

namespace duly {

struct Client::Connections {
    std::string target;
    Settings settings;
    Error wrong;  // with the settings
    std::shared_ptr<grpc::Channel> channel;
    std::unique_ptr<v1::InferenceService::Stub> stub;

    void show_token(grpc::ClientContext* context) const {
        if (!settings.token.empty()) context->AddMetadata("authorization", "Bearer " + settings.token);
    }
};

struct Stream::Shared {
    std::shared_ptr<Client::Connections> client;
    Terms terms;

    std::mutex lock;
    std::condition_variable changed;
    WallClock wall;
    Frames frames;
    Pace pace;
    std::shared_ptr<Connection> connection;  // the open one
    std::shared_ptr<Connection> newest;      // the one that is open or opening
    Agreed agreed;
    std::string lost;       // why there is no connection
    bool stopping = false;  // finished or closed: no more frames, no new connection
    bool closed = false;
    bool ended = false;
    Error error;
    std::thread runner;
};

}  // namespace duly
