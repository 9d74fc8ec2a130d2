// A client with grpc++. What it does is said in `program.py`.
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <iostream>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <google/protobuf/util/time_util.h>
#include <grpcpp/grpcpp.h>
#include <nlohmann/json.hpp>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "hookstream/v1/hookstream_service.grpc.pb.h"

using google::protobuf::util::TimeUtil;
using nlohmann::json;
using std::chrono::milliseconds;
using namespace hookstream::v1;

constexpr milliseconds RETRY_MIN{100};
constexpr milliseconds RETRY_MAX{5000};

// By number: the library does not say what its codes are called.
const char* const CODES[] = {
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
};

// An error that ends an order.
struct Refusal {
  grpc::Status status;
};

void succeed(const grpc::Status& status) {
  if (!status.ok()) throw Refusal{status};
}

void say(const char* kind, const json& what) { std::cout << json{{kind, what}} << std::endl; }

json event_of(const Event& event) {
  std::string text;
  if (event.has_avatar_video_success()) text = event.avatar_video_success().url();
  if (event.has_avatar_video_fail()) text = event.avatar_video_fail().msg();
  const auto* payload = event.GetDescriptor()->FindFieldByNumber(event.payload_case());
  const auto& data = event.event_data().fields();
  const auto extra = data.find("extra");
  return {
      {"id", event.id()},
      {"cursor", event.cursor()},
      {"sequence", std::to_string(event.sequence())},
      {"type", static_cast<int>(event.type())},
      {"type_name", event.type_name()},
      {"entity_id", event.entity_id()},
      {"payload", payload == nullptr ? "" : payload->name()},
      {"text", text},
      {"extra", extra == data.end() ? "" : extra->second.string_value()},
      {"raw_body", event.raw_body()},
  };
}

json error_of(const grpc::Status& error) {
  google::rpc::Status status;
  google::rpc::ErrorInfo info;
  google::rpc::BadRequest request;
  json metadata = json::object(), fields = json::array();
  status.ParseFromString(error.error_details());
  for (const auto& detail : status.details()) {
    if (detail.UnpackTo(&info)) {
      for (const auto& [key, value] : info.metadata()) metadata[key] = value;
    } else if (detail.UnpackTo(&request)) {
      for (const auto& violation : request.field_violations()) fields.push_back(violation.field());
    }
  }
  return {{"code", CODES[error.error_code()]}, {"reason", info.reason()}, {"metadata", metadata}, {"fields", fields}};
}

EventFilter filter_of(const json& order) {
  EventFilter filter;
  filter.add_endpoints(order.at("endpoint"));
  for (const auto& type : order.value("event_types", json::array())) filter.add_event_types(type);
  if (order.contains("entity_id")) filter.add_entity_ids(order["entity_id"]);
  return filter;
}

// A stream, which is cancelled with its scope.
class Stream {
 public:
  Stream(HookstreamService::Stub& hooks, const SubscribeEventsRequest& request)
      : frames_(hooks.SubscribeEvents(&context_, request)) {}

  ~Stream() {
    context_.TryCancel();
    if (!ended_) end();
  }

  bool next(SubscribeEventsResponse* frame) { return frames_->Read(frame); }

  // How it ended, after the last frame.
  grpc::Status end() {
    ended_ = true;
    return frames_->Finish();
  }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<SubscribeEventsResponse>> frames_;
  bool ended_ = false;
};

// One connection to the service.
class Client {
 public:
  explicit Client(const std::string& address)
      : hooks_(HookstreamService::NewStub(grpc::CreateChannel(address, grpc::InsecureChannelCredentials()))) {}

  json create_endpoint(const json& order) {
    ManageEndpointRequest request;
    request.mutable_create()->set_name(order.at("name"));
    return {{"secret", call(&HookstreamService::Stub::ManageEndpoint, request).create().secret()}};
  }

  // Follows a filter up to the event about an entity, over lost connections and restarts of the service.
  json follow(const json& order) {
    SubscribeEventsRequest request;
    *request.mutable_filter() = filter_of(order);
    if (order.contains("after_cursor")) request.set_after_cursor(order["after_cursor"]);
    for (auto delay = RETRY_MIN;; delay = std::min(delay * 2, RETRY_MAX)) {
      Stream frames(*hooks_, request);
      if (read(frames, request, order.at("until_entity"), delay)) return {{"cursor", request.after_cursor()}};
      const auto status = frames.end();
      if (status.error_code() != grpc::StatusCode::UNAVAILABLE) throw Refusal{status};
      say("reconnecting", error_of(status));
      std::this_thread::sleep_for(delay);
    }
  }

  json list(const json& order) {
    ListEventsRequest request;
    *request.mutable_filter() = filter_of(order);
    request.set_order(ORDER_OLDEST_FIRST);
    request.set_page_size(order.at("page_size"));
    do {
      const auto answer = call(&HookstreamService::Stub::ListEvents, request);
      json page = json::array();
      for (const auto& event : answer.events()) page.push_back(event.entity_id());
      say("page", page);
      request.set_page_token(answer.next_page_token());
    } while (!request.page_token().empty());
    return json::object();
  }

  json get(const json& order) {
    GetEventRequest request;
    request.set_id(order.at("id"));
    return {{"event", event_of(call(&HookstreamService::Stub::GetEvent, request).event())}};
  }

  json await_event(const json& order) {
    AwaitEventRequest request;
    *request.mutable_filter() = filter_of(order);
    *request.mutable_timeout() = TimeUtil::MillisecondsToDuration(order.at("timeout_ms"));
    if (order.contains("after_cursor")) request.set_after_cursor(order["after_cursor"]);
    return {{"event", event_of(call(&HookstreamService::Stub::AwaitEvent, request).event())}};
  }

  json create_subscription(const json& order) {
    ManageSubscriptionRequest request;
    auto* subscription = request.mutable_create()->mutable_subscription();
    subscription->set_name(order.at("name"));
    *subscription->mutable_filter() = filter_of(order);
    *subscription->mutable_min_retry_delay() = TimeUtil::MillisecondsToDuration(order.at("retry_delay_ms"));
    call(&HookstreamService::Stub::ManageSubscription, request);
    return json::object();
  }

  // Works a subscription for so many attempts.
  json work(const json& order) {
    SubscribeEventsRequest request;
    request.set_subscription(order.at("subscription"));
    Stream frames(*hooks_, request);
    SubscribeEventsResponse frame;
    for (int left = order.at("count"); left > 0;) {
      if (!frames.next(&frame)) throw Refusal{frames.end()};
      if (!frame.has_event()) continue;
      const auto& event = frame.event();
      AcknowledgeEventsRequest acknowledge;
      acknowledge.set_subscription(request.subscription());
      acknowledge.add_ack_ids(frame.ack_id());
      if (event.has_avatar_video_fail()) {
        acknowledge.mutable_reject();
      } else if (!event.has_avatar_video_success() && frame.delivery_attempt() == 1) {
        acknowledge.mutable_retry();
      } else {
        acknowledge.mutable_done();
      }
      const auto answer = call(&HookstreamService::Stub::AcknowledgeEvents, acknowledge);
      const auto* outcome = acknowledge.GetDescriptor()->FindFieldByNumber(acknowledge.outcome_case());
      say("attempt", {
                         {"entity_id", event.entity_id()},
                         {"attempt", frame.delivery_attempt()},
                         {"outcome", outcome->name()},
                         {"result", static_cast<int>(answer.results(0))},
                     });
      left -= 1;
    }
    return json::object();
  }

  json dead_letters(const json& order) {
    ListEventsRequest request;
    request.set_dead_letters_of(order.at("subscription"));
    const auto answer = call(&HookstreamService::Stub::ListEvents, request);
    json dead_letters = json::array();
    for (int at = 0; at < answer.dead_letters_size(); at++) {
      const auto& dead = answer.dead_letters(at);
      dead_letters.push_back({
          {"entity_id", answer.events(at).entity_id()},
          {"attempts", dead.attempts()},
          {"reason", static_cast<int>(dead.reason())},
      });
    }
    return {{"dead_letters", dead_letters}};
  }

 private:
  template <typename Request, typename Response>
  Response call(grpc::Status (HookstreamService::Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                const Request& request) {
    grpc::ClientContext context;
    Response response;
    succeed((*hooks_.*method)(&context, request, &response));
    return response;
  }

  // Reads a stream, and says whether it got to the event about an entity. The place is kept in the request.
  static bool read(Stream& frames, SubscribeEventsRequest& request, const std::string& until_entity,
                   milliseconds& delay) {
    const auto at = [&](const std::string& cursor) {
      request.set_after_cursor(cursor);
      return json{{"cursor", cursor}};
    };
    SubscribeEventsResponse frame;
    while (frames.next(&frame)) {
      delay = RETRY_MIN;
      switch (frame.frame_case()) {
        case SubscribeEventsResponse::kEvent:
          at(frame.event().cursor());
          say("event", event_of(frame.event()));
          if (frame.event().entity_id() == until_entity) return true;
          break;
        case SubscribeEventsResponse::kCaughtUp:
          say("caught_up", at(frame.caught_up().cursor()));
          break;
        case SubscribeEventsResponse::kHeartbeat:
          say("heartbeat", at(frame.heartbeat().cursor()));
          break;
        case SubscribeEventsResponse::kDraining:
          delay = milliseconds(TimeUtil::DurationToMilliseconds(frame.draining().reconnect_after()));
          say("draining", at(frame.draining().cursor()));
          break;
        default:
          break;
      }
    }
    return false;
  }

  std::unique_ptr<HookstreamService::Stub> hooks_;
};

int main() {
  const std::map<std::string, json (Client::*)(const json&)> orders{
      {"create_endpoint", &Client::create_endpoint},
      {"follow", &Client::follow},
      {"list", &Client::list},
      {"get", &Client::get},
      {"await_event", &Client::await_event},
      {"create_subscription", &Client::create_subscription},
      {"work", &Client::work},
      {"dead_letters", &Client::dead_letters},
  };
  Client client(std::getenv("HOOKSTREAM_ADDRESS"));
  say("library", "grpc++ " + grpc::Version());
  for (std::string line; std::getline(std::cin, line);) {
    const auto order = json::parse(line);
    try {
      say("done", (client.*orders.at(order.at("do")))(order));
    } catch (const Refusal& refusal) {
      say("error", error_of(refusal.status));
    }
  }
}
